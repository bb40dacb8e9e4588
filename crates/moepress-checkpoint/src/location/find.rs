//! Finding a tensor on disk and checking what is there.

use super::{Cut, Encoding, Location, fp8, mxfp4};
use crate::{CheckpointError, RawDtype, Shards};
use moepress_model::Place;
use moepress_quant::Dtype;

/// A name on disk that a tensor may have.
struct Spelling<'a> {
    place: &'a Place,
    name: String,
    /// Whether it is the name of 4-bit blocks.
    packed: bool,
}

impl Location {
    /// Finds a tensor of `shape` in one of `places`, of a layer with `experts` experts.
    ///
    /// # Errors
    /// It is in none of them or in several, or of another type or shape.
    pub(crate) fn find(
        shards: &Shards,
        places: &[Place],
        shape: &[usize],
        experts: usize,
    ) -> Result<Self, CheckpointError> {
        let spellings: Vec<Spelling<'_>> =
            places.iter().flat_map(|place| spellings(place, shape.len() == 2)).collect();
        let mut found = spellings.iter().filter(|spelling| shards.contains(&spelling.name));
        let Spelling { place, name, packed } = match (found.next(), found.next()) {
            (Some(one), None) => one,
            (Some(one), Some(other)) => {
                let reason = format!("{:?} holds the same weights (one of them must go)", other.name);
                return Err(shards.bad_tensor(&one.name, reason));
            }
            (None, _) => return Err(missing(shards, &spellings)),
        };
        let cut = place.slice.map(|slice| Cut::new(slice, shape, experts));
        let encoding = match *packed {
            true => Encoding::Mxfp4,
            false => encoding(shards, name)?,
        };
        let location = Self { name: place.name.clone(), encoding, cut, shape: shape.to_vec() };
        location.check(shards)?;
        Ok(location)
    }

    fn check(&self, shards: &Shards) -> Result<(), CheckpointError> {
        let whole = || self.cut.as_ref().map_or_else(|| self.shape.clone(), Cut::disk_shape);
        let expect = |name: &str, shape: &[usize]| shards.expect(name, shards.info(name)?.dtype, shape);
        match self.encoding {
            Encoding::Plain(_) => {
                let found = &shards.info(&self.name)?.shape;
                // Some checkpoints hold a vector as a matrix of one row.
                let vector = self.cut.is_none() && self.shape.len() == 1;
                match vector && found.ends_with(&self.shape) && found.iter().rev().skip(1).all(|&n| n == 1) {
                    true => Ok(()),
                    false => expect(&self.name, &whole()),
                }
            }
            Encoding::Fp8 => {
                expect(&self.name, &whole())?;
                let Some((rows, cols)) = self.disk_matrix() else {
                    return Err(shards.bad_tensor(&self.name, "only a matrix can be in FP8 blocks"));
                };
                let scales = fp8::scale_shape(rows, cols);
                let mut shape = whole();
                shape.truncate(shape.len() - scales.len());
                shape.extend(scales);
                let name = self.with(fp8::SCALES);
                match shards.info(&name)?.dtype {
                    RawDtype::F32 | RawDtype::BF16 => expect(&name, &shape),
                    other => {
                        Err(shards.bad_tensor(&name, format!("dtype {other}; scales must be F32 or BF16")))
                    }
                }
            }
            Encoding::Mxfp4 => {
                let (blocks, scales) = (self.with(mxfp4::BLOCKS), self.with(mxfp4::SCALES));
                let shapes = self.cut.as_ref().and_then(|cut| cut.block_shapes(mxfp4::BLOCK));
                let Some(shapes) = shapes else {
                    let reason = format!("rows of {:?} are not whole blocks of {}", self.shape, mxfp4::BLOCK);
                    return Err(shards.bad_tensor(&blocks, reason));
                };
                shards.expect(&blocks, RawDtype::U8, &shapes[0])?;
                shards.expect(&scales, RawDtype::U8, &shapes[1])
            }
        }
    }
}

/// The place's own name and, for matrices of experts, that of 4-bit blocks.
fn spellings(place: &Place, is_matrix: bool) -> impl Iterator<Item = Spelling<'_>> {
    let packed = (is_matrix && place.slice.is_some()).then(|| format!("{}{}", place.name, mxfp4::BLOCKS));
    let plain = Spelling { place, name: place.name.clone(), packed: false };
    [plain].into_iter().chain(packed.map(|name| Spelling { place, name, packed: true }))
}

fn missing(shards: &Shards, spellings: &[Spelling<'_>]) -> CheckpointError {
    let mut names = spellings.iter().map(|spelling| spelling.name.as_str());
    let first = names.next().unwrap_or_default();
    let others: Vec<&str> = names.collect();
    match others[..] {
        [] => shards.bad_tensor(first, "missing"),
        _ => shards.bad_tensor(first, format!("missing (nor is there {})", others.join(" or "))),
    }
}

fn encoding(shards: &Shards, name: &str) -> Result<Encoding, CheckpointError> {
    match shards.info(name)?.dtype {
        RawDtype::BF16 => Ok(Encoding::Plain(Dtype::Bf16)),
        RawDtype::F16 => Ok(Encoding::Plain(Dtype::F16)),
        RawDtype::F32 => Ok(Encoding::Plain(Dtype::F32)),
        RawDtype::F8_E4M3 => Ok(Encoding::Fp8),
        other => {
            let reason = format!("dtype {other}; only BF16, F16, F32 and F8_E4M3 can be read");
            Err(shards.bad_tensor(name, reason))
        }
    }
}
