//! A matrix by the highest bits of its codes alone (matryoshka weights, arXiv 2504.15299).

use crate::codec::Codes;
use crate::{Code, Grouped, Packed, Scale};

impl Grouped {
    /// The format of a matrix by the `bits` highest bits of its codes; `None` where they are no whole numbers on an even
    /// grid, or have no more than that.
    pub fn coarse(self, bits: u8) -> Option<Self> {
        let of = Self { code: Code::Int(bits), symmetric: false, scale: Scale::F16, ..self };
        match self.code {
            Code::Int(all) if bits < all && of.exists() => Some(of),
            _ => None,
        }
    }

    /// The grids of that format, from those of this: f16 bits of scales and offsets, as in [`Packed`].
    ///
    /// k bits that are not read are as likely one number as another: their mean, (2ᵏ − 1) / 2, goes into the offset. `None`
    /// where a number is beyond f16.
    pub fn coarse_grids(self, bits: u8, scales: &[u16], offsets: &[u16]) -> Option<(Vec<u16>, Vec<u16>)> {
        self.coarse(bits)?;
        let step = f32::from(1u16 << (self.bits() - usize::from(bits)));
        let grid = |(at, &scale): (usize, &u16)| {
            let scale = self.scale.value(scale);
            let lowest = match offsets.get(at) {
                Some(&offset) => Scale::F16.value(offset),
                None => -scale * f32::from(1u8 << (self.bits() - 1)),
            };
            let offset = Scale::F16.nearest(lowest + scale * (step - 1.0) / 2.0)?;
            let scale = Scale::F16.nearest(scale * step)?;
            Some((Scale::F16.bits(scale), Scale::F16.bits(offset)))
        };
        scales.iter().enumerate().map(grid).collect()
    }
}

impl Packed {
    /// The matrix by the `bits` highest bits of its codes, which must be in planes: what a reader of the first planes has.
    ///
    /// `None` where they are not in planes, or as [`Grouped::coarse`] and [`Grouped::coarse_grids`].
    pub fn coarse(&self, bits: u8) -> Option<Self> {
        let format = self.format.coarse(bits)?;
        let (scales, offsets) = self.format.coarse_grids(bits, &self.scales, &self.offsets)?;
        let Codes::Planes(planes) = &self.codes else { return None };
        let planes = planes.get(..planes.len() / self.format.bits() * usize::from(bits))?.to_vec();
        let (rows, cols, codes) = (self.rows, self.cols, Codes::Planes(planes));
        Some(Self { format, rows, cols, codes, scales, offsets })
    }
}

#[cfg(test)]
mod tests {
    use crate::codec::{Codec, Packing};
    use crate::formats::encode_nearest;
    use crate::{Format, Packed, Stored};
    use proptest::prelude::*;

    fn planes(format: &str, rows: usize, cols: usize, w: &[f32]) -> Packed {
        let Ok(Format::Grouped(format)) = format.parse() else { panic!("{format}") };
        encode_nearest(format, rows, cols, w, None).unwrap().repacked(Packing::Planes)
    }

    #[test]
    fn only_fewer_bits_of_whole_numbers() {
        let w = [0.5, -1.0, 0.25, 3.0];
        let int8 = planes("int8-row", 2, 2, &w);
        assert_eq!(int8.codes.codec(), Codec::Planes);
        assert_eq!(int8.coarse(4).unwrap().format.to_string(), "int4-row");
        assert!([0, 1, 5, 8, 16].into_iter().all(|bits| int8.coarse(bits).is_none()));
        assert!(int8.clone().repacked(Packing::Fields).coarse(4).is_none(), "nothing is saved by that");
        assert!(planes("int4-sym-g32", 2, 2, &w).coarse(2).is_some());
        assert!(planes("int2-row", 2, 2, &w).coarse(1).is_none());
        // The largest step of f16 has none above it.
        assert!(planes("int2-row", 1, 2, &[0.0, 65504.0]).coarse(2).is_none());
        assert!(planes("int8-row", 1, 2, &[-60000.0, 60000.0]).coarse(2).is_some());
    }

    #[test]
    fn more_bits_are_closer() {
        let hash = |x: u32| (x.wrapping_mul(0x9e37_79b9) ^ x >> 3).wrapping_mul(0x85eb_ca6b) >> 8;
        let unit = |x: u32| hash(x) as f32 / (1 << 24) as f32 - 0.5;
        let w: Vec<f32> = (0..64 * 96).map(|at| unit(4 * at) + unit(4 * at + 1) + unit(4 * at + 2)).collect();
        for format in ["int8-g32", "int8-row", "int8-sym-g64", "int8-row-ue5m3"] {
            let all = planes(format, 64, 96, &w);
            let error = |packed: &Packed| -> f64 {
                packed.to_f32().iter().zip(&w).map(|(q, w)| f64::from(q - w).powi(2)).sum()
            };
            let errors: Vec<f64> = [2, 3, 4]
                .map(|bits| error(&all.coarse(bits).unwrap()))
                .into_iter()
                .chain([error(&all)])
                .collect();
            assert!(errors.windows(2).all(|pair| pair[1] < pair[0] / 2.0), "{format}: {errors:?}");
            // A prefix is nearly as good as rounding to as many bits.
            let alone = planes(&format.replace("int8", "int4").replace("-sym", ""), 64, 96, &w);
            assert!(errors[2] < 1.5 * error(&alone), "{format}: {} {}", errors[2], error(&alone));
        }
    }

    proptest! {
        #[test]
        fn a_prefix_is_within_half_its_step(
            w in proptest::collection::vec(-1f32..1.0, 1..90), at in 0usize..8, symmetric: bool, row: bool,
        ) {
            let (of, bits) = [(8, 2), (8, 3), (8, 4), (4, 2), (4, 3), (3, 2), (8, 4), (8, 2)][at];
            let (sym, group) = (if symmetric { "-sym" } else { "" }, if row { "row" } else { "g32" });
            let all = planes(&format!("int{of}{sym}-{group}"), 1, w.len(), &w);
            let coarse = all.coarse(bits).unwrap();
            prop_assert_eq!(Stored::Packed(coarse.clone()).validate(), Ok(()));
            let mut codes = [vec![0; w.len()], vec![0; w.len()]];
            all.read_codes(0, &mut codes[0]);
            coarse.read_codes(0, &mut codes[1]);
            let group = all.format.group;
            for (col, (fine, rough)) in all.to_f32().iter().zip(coarse.to_f32()).enumerate() {
                prop_assert_eq!(codes[0][col] >> (of - bits), codes[1][col]);
                let scale = all.format.scale.value(all.scales[col / group]);
                let step = scale.abs() * f32::from(1u8 << (of - bits));
                // Half a step less half of the finest, and what f16 cannot say of the offset.
                prop_assert!((fine - rough).abs() <= 0.5 * step + 1e-3, "{} {} {}", fine, rough, step);
            }
        }
    }
}
