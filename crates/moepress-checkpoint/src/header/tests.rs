use super::*;
use crate::mutate::mutated;
use crate::{ErrorKind, RawDtype, RawTensor, encode_shard};
use proptest::prelude::*;
use safetensors::SafeTensors;
use std::io;

struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.get(offset as usize..offset as usize + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A file of `header` and `data` zero bytes.
fn file(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; data]].concat()
}

fn read(bytes: Vec<u8>) -> Result<Header, CheckpointError> {
    Header::read(&Bytes(bytes), Path::new("a.safetensors"))
}

#[track_caller]
fn refused(bytes: Vec<u8>, reason: &str) {
    let error = read(bytes).err().expect(reason);
    let text = error.to_string();
    assert!(text.starts_with("a.safetensors: ") && text.contains(reason), "{text}");
    assert!(!text.contains('\n') && text.len() < 1500, "{text}");
    assert_eq!(error.kind(), ErrorKind::BadInput);
}

fn tensor(name: &str, shape: &str, begin: usize, end: usize) -> String {
    format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

#[test]
fn row_1_too_small() {
    (0..8).for_each(|n| refused(vec![0; n], "too small"));
}

#[test]
fn row_2_too_large() {
    for length in [u64::MAX, 1 << 63, HEADER_BYTES + 1] {
        refused([&length.to_le_bytes()[..], b"{}"].concat(), "too large");
    }
}

#[test]
fn row_3_longer_than_the_file() {
    refused([&3u64.to_le_bytes()[..], b"{}"].concat(), "length 3 is beyond the 2 bytes");
    refused([&HEADER_BYTES.to_le_bytes()[..], b"{}"].concat(), "beyond");
}

#[test]
fn row_4_not_json() {
    refused(file(b"{\"\xff\":0}", 0), "not UTF-8");
    refused(file("{\"a\"", 0), "EOF");
    refused(file("[]", 0), "does not start with `{`");
    refused(file(" {}", 0), "does not start with `{`");
    refused(file("", 0), "does not start with `{`");
    refused(file("{} x", 0), "trailing characters");
    assert!(read(file("{}      ", 0)).unwrap().tensors.is_empty());
}

#[test]
fn row_5_deep() {
    refused(file(format!("{{\"a\":{}", "[".repeat(100_000)), 0), "nested deeper than the limit of 64");
}

#[test]
fn row_6_duplicate_keys() {
    let a = tensor("a", "[1]", 0, 4);
    refused(file(format!("{{{a},{a}}}"), 4), "duplicate key \"a\"");
    let twice = r#"{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    refused(file(twice, 4), "duplicate key \"dtype\"");
    refused(file(r#"{"__metadata__":{"x":"1","x":"2"}}"#, 0), "duplicate key \"x\"");
}

#[test]
fn row_7_overlap() {
    let bomb: Vec<_> = (0..10).map(|i| tensor(&i.to_string(), "[4]", 0, 16)).collect();
    refused(file(format!("{{{}}}", bomb.join(",")), 16), "tensor \"1\": data overlaps");
    let (a, b) = (tensor("a", "[2]", 0, 8), tensor("b", "[2]", 4, 12));
    refused(file(format!("{{{b},{a}}}"), 12), "tensor \"b\": data overlaps");
}

#[test]
fn row_8_holes_and_trailing_bytes() {
    refused(file(format!("{{{}}}", tensor("a", "[1]", 4, 8)), 8), "tensor \"a\": data leaves a hole");
    refused(file(format!("{{{}}}", tensor("a", "[1]", 0, 4)), 6), "file: 2 trailing bytes");
    refused(file("{}", 1), "1 trailing bytes");
}

#[test]
fn row_9_offsets() {
    refused(file(format!("{{{}}}", tensor("a", "[1]", 8, 4)), 8), "before they begin");
    refused(file(format!("{{{}}}", tensor("a", "[1]", 0, 4)), 3), "beyond the file's 3 bytes");
    refused(file(format!("{{{}}}", tensor("a", "[0]", 9, 9)), 4), "beyond the file's 4 bytes");
    for offset in ["-1", "4.0", "4e0", "\"4\"", "null", "18446744073709551616"] {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":[1],"data_offsets":[0,{offset}]}}}}"#);
        refused(file(header, 4), "tensor \"a\": invalid");
    }
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e400]}}"#;
    refused(file(header, 4), "number out of range");
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#;
    refused(file(header, 4), "tensor \"a\"");
}

#[test]
fn row_10_overflow() {
    for shape in ["[4294967296,4294967296]", "[4611686018427387904]", "[18446744073709551615,2,0]"] {
        refused(file(format!("{{{}}}", tensor("a", shape, 0, 0)), 0), "overflows");
    }
}

#[test]
fn row_11_sizes_and_dtypes() {
    refused(file(format!("{{{}}}", tensor("a", "[2]", 0, 4)), 4), "size 4 does not match F32 of shape [2]");
    let typed = |dtype: &str| format!(r#"{{"a":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,1]}}}}"#);
    refused(file(typed("F17"), 1), "tensor \"a\": unknown variant `F17`");
    refused(file(typed("F17\\n\\u001b[2J"), 1), "F17\\n\\u{1b}[2J");
    refused(file(typed(&"F".repeat(1_000_000)), 1), "tensor \"a\"");
    refused(file(typed("F4"), 1), "whole bytes");
    for dtype in ["U8", "I8", "F8_E4M3"] {
        assert!(read(file(typed(dtype), 1)).is_ok(), "{dtype}");
    }
    refused(file(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0}}"#, 1), "unknown field `x`");
    refused(file(r#"{"a":{"dtype":"U8","shape":[1]}}"#, 1), "missing field `data_offsets`");
}

#[test]
fn row_12_limits() {
    let ones = |rank| format!("[{}]", vec!["1"; rank].join(","));
    refused(file(format!("{{{}}}", tensor("a", &ones(65), 0, 4)), 4), "rank above the limit of 8");
    assert!(read(file(format!("{{{}}}", tensor("a", &ones(8), 0, 4)), 4)).is_ok());
    refused(file(format!("{{{}}}", tensor(&"n".repeat(1 << 20), "[1]", 0, 4)), 4), "the limit is 1024");
    refused(file(format!("{{{}}}", tensor("a\\u0000b", "[1]", 0, 4)), 4), "control character in tensor name");
    refused(file(format!("{{{}}}", tensor("a\\nb", "[1]", 0, 4)), 4), "control character in tensor name");
    refused(file(format!("{{{}}}", tensor("", "[1]", 0, 4)), 4), "without a name");
    let many: Vec<_> = (0..=1_000_000).map(|i| format!("\"{i}\":0")).collect();
    refused(file(format!("{{{}}}", many.join(",")), 0), "limit of 1000000 members");
}

#[test]
fn row_13_empty_tensors_are_read_as_such() {
    let header = format!("{{{},{}}}", tensor("a", "[0,3]", 4, 4), tensor("b", "[]", 0, 4));
    let header = read(file(header, 4)).unwrap();
    assert_eq!(header.tensors[1].1.shape, [0, 3]);
}

#[test]
fn row_14_truncated_or_extended() {
    let whole = file(format!("{{{}}}", tensor("a", "[2048]", 0, 8192)), 8192);
    for keep in [whole.len() - 1, 4096] {
        refused(whole[..keep].to_vec(), "beyond");
    }
    refused([&whole[..], &[0]].concat(), "1 trailing bytes");
    assert!(read(whole).is_ok());
}

fn valid() -> Vec<u8> {
    let tensor = |dtype, shape: &[usize], bytes| {
        (dtype, RawTensor { dtype, shape: shape.to_vec(), bytes: vec![7; bytes] })
    };
    let all = [
        tensor(RawDtype::F32, &[2, 3], 24),
        tensor(RawDtype::BF16, &[4], 8),
        tensor(RawDtype::U8, &[3, 0], 0),
        tensor(RawDtype::I64, &[], 8),
    ];
    encode_shard(&all.into_iter().map(|(dtype, raw)| (format!("model.{dtype}"), raw)).collect()).unwrap()
}

#[test]
fn mutated_files_never_panic_and_accept_only_what_the_crate_accepts() {
    let (seed, mut state, mut accepted) = (valid(), 1, 0);
    for _ in 0..100_000 {
        let bytes = mutated(&seed, &mut state);
        if read(bytes.clone()).is_ok() {
            accepted += 1;
            assert!(SafeTensors::deserialize(&bytes).is_ok(), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
    assert!((1000..99_000).contains(&accepted), "{accepted}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(header in proptest::collection::vec(any::<u8>(), 0..64), data in 0usize..8) {
        let bytes = file(header, data);
        if read(bytes.clone()).is_ok() {
            prop_assert!(SafeTensors::deserialize(&bytes).is_ok());
        }
    }
}
