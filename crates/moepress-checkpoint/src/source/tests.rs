use super::*;
use crate::mutate::mutated;
use crate::{ErrorKind, OsFiles, encode_shard};
use std::fs;
use std::os::unix::fs::symlink;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        fs::write(self.0.path().join(name), bytes).unwrap();
        self
    }

    /// A shard of one-row F32 tensors whose values are all 1.
    fn shard(&self, name: &str, tensors: &[&str]) -> &Self {
        self.write(name, shard(tensors))
    }

    fn index(&self, weight_map: &str) -> &Self {
        self.write(INDEX, format!("{{\"metadata\":{{\"total_size\":8}},\"weight_map\":{weight_map}}}"))
    }

    fn open(&self) -> Result<Shards, CheckpointError> {
        let files: Arc<dyn Files> = Arc::new(OsFiles);
        Shards::open(&files, self.0.path())
    }

    #[track_caller]
    fn refused(&self, reason: &str) {
        let error = self.open().err().expect(reason);
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(error.kind(), ErrorKind::BadInput);
    }
}

fn shard(names: &[&str]) -> Vec<u8> {
    let raw = Plain::from_f32(Dtype::F32, vec![2], &[1.0, 1.0]).bytes;
    let tensor = RawTensor { dtype: RawDtype::F32, shape: vec![2], bytes: raw };
    encode_shard(&names.iter().map(|&name| (name.to_owned(), tensor.clone())).collect()).unwrap()
}

const SINGLE: &str = "model.safetensors";
const ONE: &str = "model-1-of-2.safetensors";
const TWO: &str = "model-2-of-2.safetensors";

fn two() -> Dir {
    let dir = Dir::new();
    dir.shard(ONE, &["a", "b"]).shard(TWO, &["c"]);
    dir.index(&format!(r#"{{"a":"{ONE}","b":"{ONE}","c":"{TWO}"}}"#));
    dir
}

#[test]
fn an_index_a_single_file_and_a_link_are_read() {
    let shards = two().open().unwrap();
    assert_eq!(shards.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(shards.info("c").unwrap().shard, 1);

    for name in [SINGLE, "other.safetensors"] {
        let dir = Dir::new();
        dir.shard(name, &["a"]);
        assert_eq!(dir.open().unwrap().read_plain("a").unwrap().to_f32(), [1.0, 1.0]);
    }
    let (dir, cache) = (Dir::new(), Dir::new());
    cache.shard("blob", &["a"]);
    symlink(cache.0.path().join("blob"), dir.0.path().join(SINGLE)).unwrap();
    assert!(dir.open().unwrap().contains("a"));
}

#[test]
fn rows_are_slices_of_the_outermost_dimension() {
    let dir = Dir::new();
    let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let plain = Plain::from_f32(Dtype::Bf16, vec![4, 3, 2], &values);
    let raw = |dtype, shape: Vec<usize>, bytes| RawTensor { dtype, shape, bytes };
    let tensors = [
        ("x".to_owned(), raw(RawDtype::BF16, vec![4, 3, 2], plain.bytes.clone())),
        ("scalar".to_owned(), raw(RawDtype::I64, vec![], vec![0; 8])),
        ("empty".to_owned(), raw(RawDtype::F32, vec![0, 2], vec![])),
    ];
    dir.write(SINGLE, encode_shard(&tensors.into()).unwrap());
    let shards = dir.open().unwrap();
    assert_eq!(shards.read_plain("x").unwrap(), plain);
    let rows = shards.read_plain_rows("x", 1..3).unwrap();
    assert_eq!((rows.shape, rows.bytes), (vec![2, 3, 2], plain.bytes[12..36].to_vec()));
    assert_eq!(shards.read_rows("x", 4..4).unwrap().shape, [0, 3, 2]);
    assert_eq!(shards.read_rows("empty", 0..0).unwrap().shape, [0, 2]);
    #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake is an error, not a panic")]
    let mistakes = [("x", 3..5), ("x", 2..1), ("scalar", 0..1), ("empty", 0..1), ("y", 0..1)];
    for (name, rows) in mistakes {
        assert_eq!(shards.read_rows(name, rows).unwrap_err().kind(), ErrorKind::BadInput);
    }
    assert!(shards.read_plain("scalar").unwrap_err().to_string().contains("dtype I64 where"));
    assert!(shards.read("y").unwrap_err().to_string().contains("tensor \"y\": missing"));
    let error = shards.expect("empty", RawDtype::F32, &[2]).unwrap_err().to_string();
    assert!(error.contains("F32 [0, 2] instead of F32 [2]"), "{error}");
}

#[test]
fn row_15_a_file_that_changes_while_in_use() {
    let dir = Dir::new();
    dir.shard(SINGLE, &["a"]);
    let shards = dir.open().unwrap();
    let whole = fs::read(dir.0.path().join(SINGLE)).unwrap();
    dir.write(SINGLE, &whole[..whole.len() - 1]);
    let error = shards.read("a").unwrap_err();
    assert!(
        error.kind() == ErrorKind::BadInput && error.to_string().contains("changed while in use"),
        "{error}"
    );
    fs::remove_file(dir.0.path().join(SINGLE)).unwrap();
    assert!(shards.read("a").unwrap_err().to_string().contains("missing"));
}

#[test]
fn row_16_names_that_leave_the_directory() {
    let dir = Dir::new();
    dir.shard(SINGLE, &["a"]);
    let long = format!("{}.safetensors", "x".repeat(255));
    let hostile = [
        "../x.safetensors",
        "/etc/passwd",
        "a/../../b.safetensors",
        "C:\\\\x.safetensors",
        "a\\\\x.safetensors",
        "",
        ".",
        "..",
        "a\\u0000.safetensors",
        "a\\n.safetensors",
        "é.safetensors",
        "model.safetensors/",
        "config.json",
        &long,
    ];
    for name in hostile {
        dir.index(&format!(r#"{{"a":"{name}"}}"#)).refused("is not the plain name of a .safetensors file");
    }
}

#[test]
fn row_17_what_is_no_regular_file() {
    let path = |dir: &Dir| dir.0.path().join(SINGLE);
    let dir = Dir::new();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, path(&dir), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    dir.refused("not a regular file");
    let dir = Dir::new();
    fs::create_dir(path(&dir)).unwrap();
    dir.refused("not a regular file");
    for target in ["/dev/zero", "/proc", "."] {
        let dir = Dir::new();
        symlink(target, path(&dir)).unwrap();
        dir.refused("not a regular file");
    }
    let dir = Dir::new();
    symlink("nothing", path(&dir)).unwrap();
    dir.refused("missing");
}

#[test]
fn row_18_index_and_files_disagree() {
    let dir = two();
    dir.index(&format!(r#"{{"a":"{ONE}","b":"{ONE}","c":"model-3-of-3.safetensors"}}"#))
        .refused("3-of-3.safetensors is missing");
    dir.index(&format!(r#"{{"a":"{ONE}","b":"{ONE}"}}"#)).refused("does not list the shard model-2-of-2");
    dir.index(&format!(r#"{{"a":"{ONE}","b":"{TWO}","c":"{TWO}"}}"#))
        .refused("tensor \"b\": not in model-2-of-2");
    dir.index(&format!(r#"{{"a":"{ONE}","c":"{TWO}"}}"#)).refused("tensor \"b\": not listed");
    dir.index(&format!(r#"{{"a":"{ONE}","c":"{TWO}","d":"{TWO}"}}"#)).refused("tensor \"d\": not in");
    let dir = two();
    dir.shard(TWO, &["b", "c"]).refused("tensor \"b\": also in");
    let dir = Dir::new();
    dir.shard("a.safetensors", &["a"]).shard("b.safetensors", &["b"]).refused("several .safetensors");
    Dir::new().refused("no .safetensors file");
}

#[test]
fn row_18_a_wrong_total_size_is_told() {
    let dir = two();
    let map = format!(r#"{{"a":"{ONE}","b":"{ONE}","c":"{TWO}"}}"#);
    for (metadata, note) in [
        (r#"{"total_size":24}"#, None),
        (r#"{"total_size":24.0}"#, None),
        (r#"{"total_size":8}"#, Some("says total_size 8, the tensors have 24 bytes")),
        (r#"{"total_size":-1}"#, Some("says total_size -1, the tensors have 24 bytes")),
        (r#"{"total_size":"24"}"#, None),
        ("null", None),
    ] {
        dir.write(INDEX, format!("{{\"metadata\":{metadata},\"weight_map\":{map}}}"));
        let shards = dir.open().unwrap();
        let note = note.map(|note| format!("{INDEX} {note}"));
        assert_eq!(shards.notes(), note.as_slice(), "{metadata}");
    }
}

#[test]
fn mutated_indexes_never_panic() {
    let dir = two();
    let whole =
        format!(r#"{{"metadata":{{"total_size":24}},"weight_map":{{"a":"{ONE}","b":"{ONE}","c":"{TWO}"}}}}"#);
    let (mut state, mut accepted) = (3, 0);
    for _ in 0..5_000 {
        dir.write(INDEX, mutated(whole.as_bytes(), &mut state));
        match dir.open() {
            Ok(_) => accepted += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::BadInput, "{error}"),
        }
    }
    assert!((50..4_950).contains(&accepted), "{accepted}");
}

#[test]
fn row_19_weight_maps() {
    let dir = two();
    dir.index("[]").refused("invalid type: sequence");
    dir.index(r#"{"a":1}"#).refused("invalid type: integer");
    dir.index("{}").refused("weight_map: empty");
    dir.index(&format!(r#"{{"a":"{ONE}","a":"{TWO}"}}"#)).refused("duplicate key \"a\"");
    dir.write(INDEX, "{}").refused("missing field `weight_map`");
    let many: Vec<_> = (0..=1_000_000).map(|i| format!("\"{i}\":\"{ONE}\"")).collect();
    dir.index(&format!("{{{}}}", many.join(","))).refused("limit of 1000000 members");
}

#[test]
fn row_28_pickle_only() {
    Dir::new()
        .write("pytorch_model.bin", b"\x80")
        .write("config.json", b"{}")
        .refused("safetensors required");
}
