use super::*;
use crate::{ErrorKind, Files, OsFiles};
use moepress_quant::Format;
use moepress_quant::codec::Packing;
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

fn open(dir: &Path, tensors: &BTreeMap<String, RawTensor>) -> Shards {
    std::fs::write(dir.join("model.safetensors"), encode_shard(tensors).unwrap()).unwrap();
    let files: Arc<dyn Files> = Arc::new(OsFiles);
    Shards::open(&files, dir).unwrap()
}

fn grouped(name: &str) -> Grouped {
    match name.parse().unwrap() {
        Format::Grouped(grouped) => grouped,
        Format::Plain(_) | Format::LowRank(_) => unreachable!(),
    }
}

fn packed(format: Grouped, rows: usize, cols: usize) -> Packed {
    let groups = rows * format.row_groups(cols);
    Packed {
        format,
        rows,
        cols,
        codes: Codes::Fields(vec![0b0001_0100; rows * format.row_bytes(cols)]),
        scales: (0..groups).map(|i| 0x3c00 + 128 * i as u16).collect(),
        offsets: if format.has_offsets() { vec![0xbc00; groups] } else { vec![] },
    }
}

fn read(dir: &Path, parts: Vec<(String, RawTensor)>, format: Grouped) -> Result<Stored, CheckpointError> {
    read_packed(&open(dir, &parts.into_iter().collect()), "w", format, 3, 40)
}

#[test]
fn packed_matrices_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["ternary-g32", "int3-sym-g64", "int4-g32", "int8-g128"] {
        round_trip(dir.path(), packed(grouped(name), 3, 40));
    }
}

fn round_trip(dir: &Path, packed: Packed) {
    let (format, stored) = (packed.format, Stored::Packed(packed));
    let parts = raw_parts("w", stored.clone());
    assert_eq!(parts.iter().map(|(_, raw)| raw.bytes.len() as u64).sum::<u64>(), stored.stored_bytes());
    assert_eq!(read(dir, parts, format).unwrap(), stored);
}

#[test]
fn every_codec_round_trips_and_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let format = grouped("ternary-g32");
    let fields = packed(format, 3, 40);
    let mut even = fields.clone();
    // 0, 1, 2, 0: each code about as often as the others.
    even.codes = Codes::Fields([[0b0010_0100, 0b0100_1001, 0b1001_0010]; 10].concat());
    let (trits, entropy) = (even.repacked(Packing::Best), fields.clone().repacked(Packing::Best));
    assert_eq!((trits.codes.codec(), entropy.codes.codec()), (Codec::Trits, Codec::Entropy));
    let parts = |packed: &Packed| raw_parts("w", Stored::Packed(packed.clone()));
    let refused = |parts: Vec<(String, RawTensor)>, reasons: [&str; 2]| {
        let error = read(dir.path(), parts, format).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadInput);
        let error = error.to_string();
        for reason in ["model.safetensors"].into_iter().chain(reasons) {
            assert!(error.contains(reason), "{error}");
        }
    };
    for (packed, part, at, to, reason) in [
        (&trits, "w.trits", 9, 243, "row 1 on hold a byte that is no five trits"),
        (&entropy, "w.entropy", 0, 0, "row 0 on have a header that makes no sense"),
    ] {
        round_trip(dir.path(), packed.clone());
        let mut spoilt = parts(packed);
        assert_eq!(spoilt[0].0, part);
        spoilt[0].1.bytes[at] = to;
        refused(spoilt, ["tensor \"w\"", reason]);
        let mut narrow = parts(packed);
        narrow[0].1.bytes.pop();
        narrow[0].1.shape = vec![narrow[0].1.bytes.len()];
        let reason =
            if part == "w.trits" { "instead of U8 [3, 8]" } else { "end before their last run does" };
        refused(narrow, ["tensor \"w", reason]);
    }
    let mut flat = parts(&entropy);
    flat[0].1.shape = vec![1, flat[0].1.bytes.len()];
    refused(flat, ["w.entropy", "instead of U8 [1]"]);
}

#[test]
fn the_first_planes_can_be_read_alone() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["int8-g32", "int4-sym-row", "int3-g64"] {
        let fields = packed(grouped(name), 3, 40);
        let planes = fields.clone().repacked(Packing::Planes);
        round_trip(dir.path(), planes.clone());
        assert_eq!(planes.stored_bytes(), fields.stored_bytes());
        let mut parts: BTreeMap<String, RawTensor> =
            raw_parts("w", Stored::Packed(planes.clone())).into_iter().collect();
        let shards = open(dir.path(), &parts);
        let coarse = |shards: &Shards, bits| read_coarse(shards, "w", grouped(name), (3, 40), bits).unwrap();
        for bits in [2, 3, 4, 8] {
            assert_eq!(coarse(&shards, bits), planes.coarse(bits).map(Stored::Packed), "{name} {bits}");
        }
        // What is behind them may be anything.
        let bytes = &mut parts.get_mut("w.planes").unwrap().bytes;
        bytes[2 * 3 * 5..].fill(0x5a);
        assert_eq!(coarse(&open(dir.path(), &parts), 2), planes.coarse(2).map(Stored::Packed));
        let fields = raw_parts("w", Stored::Packed(fields)).into_iter().collect();
        assert_eq!(coarse(&open(dir.path(), &fields), 2), None);
    }
    let ternary = packed(grouped("ternary-g32"), 3, 40).repacked(Packing::Planes);
    let parts = raw_parts("w", Stored::Packed(ternary));
    let error = read(dir.path(), parts, grouped("ternary-g32")).unwrap_err().to_string();
    assert!(error.contains("are planes, but the format has no whole numbers"), "{error}");
}

#[test]
fn packed_matrices_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let format = grouped("ternary-g32");
    let refused = |packed: Packed, wanted: Grouped, reason: &str| {
        let error = read(dir.path(), raw_parts("w", Stored::Packed(packed)), wanted).unwrap_err();
        assert!(error.kind() == ErrorKind::BadInput && error.to_string().contains(reason), "{error}");
    };
    refused(packed(format, 2, 40), format, "w.codes\": U8 [2, 10] instead of U8 [3, 10]");
    refused(packed(format, 3, 40), grouped("ternary-g64"), "w.scales\": F16 [3, 2] instead of F16 [3, 1]");
    refused(packed(grouped("int2-sym-g32"), 3, 40), grouped("int2-g32"), "w.offsets\": missing");
    let mut infinite = packed(format, 3, 40);
    infinite.scales[4] = 0x7c00;
    refused(infinite, format, "element 4 of scales");
    let mut invalid = packed(format, 3, 40);
    invalid.codes = Codes::Fields([invalid.codes.bytes(), &[0xff; 10]].concat()[10..].to_vec());
    refused(invalid, format, "from row 2 on hold a 3");
    let shards = open(dir.path(), &BTreeMap::new());
    assert!(read_packed(&shards, "w", format, 1, usize::MAX).unwrap_err().to_string().contains("too many"));
}

#[test]
fn matrices_of_low_rank_round_trip_and_are_checked() {
    use moepress_quant::{Factored, LowRank};
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..18).map(|at| at as f32 - 4.0).collect();
    let factored = Factored::new((3, 6), &values[..6], &values[..12], &values[..6], vec![1]).unwrap();
    let (format, stored) = (LowRank { rank: 2, kept: 1 }, Stored::Factored(factored));
    let parts = raw_parts("w", stored.clone());
    let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["w.left", "w.right", "w.rest", "w.places"]);
    assert_eq!(parts.iter().map(|(_, raw)| raw.bytes.len() as u64).sum::<u64>(), stored.stored_bytes());
    let read = |parts: Vec<(String, RawTensor)>| {
        read_low_rank(&open(dir.path(), &parts.into_iter().collect()), "w", format, [3, 6])
    };
    assert_eq!(read(parts.clone()).unwrap(), stored);
    let spoil = |at: usize, spoil: &dyn Fn(&mut RawTensor), reason: &str| {
        let mut parts = parts.clone();
        spoil(&mut parts[at].1);
        let error = read(parts).unwrap_err();
        assert!(error.kind() == ErrorKind::BadInput && error.to_string().contains(reason), "{error}");
    };
    spoil(0, &|left| left.bytes[..2].copy_from_slice(&[0xc0, 0x7f]), "element 0 of left is not finite");
    spoil(1, &|right| right.shape = vec![6, 2], "w.right\": BF16 [6, 2] instead of BF16 [2, 6]");
    spoil(2, &|rest| rest.dtype = RawDtype::F16, "w.rest\": F16 [1, 6] instead of BF16 [1, 6]");
    spoil(3, &|places| places.bytes[0] = 3, "not below 3");
    assert!(read(parts[..3].to_vec()).unwrap_err().to_string().contains("w.places\": missing"));
}

#[test]
fn bytes_must_fit_the_shape() {
    let tensor = RawTensor { dtype: RawDtype::F32, shape: vec![2], bytes: vec![0; 7] };
    let error = encode_shard(&BTreeMap::from([("a".to_owned(), tensor)])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

fn tensor() -> impl Strategy<Value = RawTensor> {
    const DTYPES: [RawDtype; 6] =
        [RawDtype::U8, RawDtype::F16, RawDtype::BF16, RawDtype::F32, RawDtype::I64, RawDtype::F8_E4M3];
    let head = (proptest::sample::select(&DTYPES[..]), proptest::collection::vec(0usize..4, 0..4));
    head.prop_flat_map(|(dtype, shape)| {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        proptest::collection::vec(any::<u8>(), bytes).prop_map(move |bytes| RawTensor {
            dtype,
            shape: shape.clone(),
            bytes,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn what_is_written_is_read(tensors in proptest::collection::btree_map("[a-z.\"\\\\é]{1,9}", tensor(), 0..8)) {
        prop_assert_eq!(encode_shard(&tensors).unwrap(), encode_shard(&tensors.clone()).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let shards = open(dir.path(), &tensors);
        prop_assert_eq!(shards.tensors().len(), tensors.len());
        for (name, tensor) in &tensors {
            prop_assert_eq!(&shards.read(name).unwrap(), tensor);
        }
    }
}
