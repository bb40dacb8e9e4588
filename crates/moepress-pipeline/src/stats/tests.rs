use super::*;
use crate::plan::{plan_with, unedited_needs};
use crate::{PipelineError, Plan};
use moepress_calibrate::windows_per_chunk;
use moepress_checkpoint::{
    Checkpoint, ErrorKind, Files, OsFiles, RawDtype, RawTensor, Silent, encode_shard, encode_with_text,
};
use moepress_model::Edit;
use moepress_stats::{Need, Of, Quantity, Statistics};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn windows(count: usize, window: usize) -> Vec<Vec<u32>> {
    (0..count as u32).map(|index| vec![index; window]).collect()
}

fn header(shard: &str) -> StatisticsHeader {
    let model = BTreeMap::from([("config.json".to_owned(), "ab".to_owned())]);
    let groups = BTreeSet::from([Need::Routing, Need::Atoms]);
    StatisticsHeader::new(&model, &[], &windows(8, 512), &groups, shard.parse().unwrap()).unwrap()
}

/// Statistics of that shard; every sum is `value` or twice it.
fn part(shard: &str, value: f64) -> StatisticsFile {
    let mut sums = Statistics::default();
    sums.add(Of::Model, Quantity::Tokens, vec![2.0]).unwrap();
    sums.add(Of::Layer(0), Quantity::GateSum, vec![value, 2.0 * value]).unwrap();
    StatisticsFile { header: header(shard), sums }
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn file(&self, name: &str, statistics: &StatisticsFile) -> PathBuf {
        self.write(name, &statistics.encode().unwrap())
    }

    /// The reason why a file of these bytes is refused.
    fn refused(&self, bytes: &[u8]) -> String {
        let path = self.write("x.safetensors", bytes);
        let error = StatisticsFile::read(&OsFiles, &path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadInput, "{error}");
        error.to_string().strip_prefix(&format!("{}: ", path.display())).unwrap().to_owned()
    }
}

proptest! {
    #[test]
    fn a_damaged_file_is_read_or_refused(
        places in proptest::collection::vec((0usize..1000, any::<u8>()), 1..4),
        keep in 0usize..2000,
    ) {
        let mut bytes = part("1/3", 1.0).encode().unwrap();
        for (at, value) in places {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(keep.max(8));
        let place = Place::new();
        if let Err(error) = StatisticsFile::read(&OsFiles, &place.write("x", &bytes)) {
            prop_assert!(error.kind() == ErrorKind::BadInput && !error.to_string().contains('\n'), "{}", error);
        }
    }
}

#[test]
fn shards_partition_the_windows_by_whole_chunks() {
    assert_eq!([1, 256, 1000, 1024, 4096].map(windows_per_chunk), [1024, 4, 1, 1, 1]);
    // Four windows to a chunk: chunks of 4, 4 and 3.
    let all = windows(11, 256);
    let dealt = |shard: &str| {
        let windows = shard.parse::<Shard>().unwrap().of_windows(&all, 256).unwrap();
        windows.iter().map(|window| window[0]).collect::<Vec<_>>()
    };
    assert_eq!(dealt("1/1"), (0..11).collect::<Vec<_>>());
    assert_eq!(dealt("1/2"), [0, 1, 2, 3, 8, 9, 10]);
    assert_eq!(dealt("2/2"), [4, 5, 6, 7]);
    assert_eq!(dealt("3/3"), [8, 9, 10]);
    let error = "1/4".parse::<Shard>().unwrap().of_windows(&all, 256).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::Usage));
    assert_eq!(error.to_string(), "11 windows of 256 tokens make 3 shards at most, 4 were asked for");
    for wrong in ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1 /2"] {
        assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
    }
    assert_eq!("2/4".parse::<Shard>().unwrap().to_string(), "2/4");
}

#[test]
fn the_key_follows_model_text_and_edits() {
    let model = |digest: &str| BTreeMap::from([("a".to_owned(), digest.to_owned())]);
    let key = |model: &BTreeMap<String, String>, edits: &[Edit], windows: &[Vec<u32>]| {
        let header = StatisticsHeader::new(model, edits, windows, &BTreeSet::new(), Shard::WHOLE).unwrap();
        (header.model, header.edits, header.tokens)
    };
    let edit = [Edit::KeepExperts { layer: 0, experts: vec![0] }];
    let base = key(&model("1"), &[], &[vec![1, 2], vec![3, 4]]);
    // `sha256sum a | sha256sum`, and the numbers 2 2 1 2 3 4.
    assert_eq!(base.0, moepress_checkpoint::digest_of(b"1  a\n"));
    let ids: Vec<u8> = [2u32, 2, 1, 2, 3, 4].into_iter().flat_map(u32::to_le_bytes).collect();
    assert_eq!((base.1.as_str(), &base.2), ("none", &moepress_checkpoint::digest_of(&ids)));
    assert_ne!(key(&model("2"), &[], &[vec![1, 2], vec![3, 4]]).0, base.0);
    assert_ne!(key(&model("1"), &edit, &[vec![1, 2], vec![3, 4]]).1, base.1);
    for other in [&[vec![1, 2, 3, 4]][..], &[vec![1], vec![2], vec![3], vec![4]], &[vec![1, 2], vec![3, 5]]] {
        assert_ne!(key(&model("1"), &[], other).2, base.2);
    }
}

#[test]
fn a_file_is_read_as_it_was_written() {
    let place = Place::new();
    let part = part("2/3", 0.1);
    let path = place.file("a", &part);
    assert_eq!(StatisticsFile::read(&OsFiles, &path).unwrap(), part);
    assert_eq!(StatisticsFile::read_header(&OsFiles, &path).unwrap(), part.header);
    assert_eq!(part.encode().unwrap(), part.encode().unwrap());
}

#[test]
fn hostile_headers_are_refused() {
    let place = Place::new();
    let good = serde_json::to_value(header("1/2")).unwrap();
    let refused =
        |text: &str| place.refused(&encode_with_text(&BTreeMap::new(), "moepress_statistics", text).unwrap());
    let changed = |key: &str, value: Value| {
        let mut header = good.clone();
        header[key] = value;
        refused(&header.to_string())
    };
    assert!(place.refused(&encode_shard(&BTreeMap::new()).unwrap()).contains("has no `moepress_statistics`"));
    assert!(refused("").contains("header: EOF"));
    assert!(refused("{\"of\": 1, \"of\": 1}").contains("duplicate key \"of\""));
    assert!(refused("[]").contains("`format_version`: is null"));
    assert!(changed("format_version", json!(2)).contains("`format_version`: is 2, this build reads 1"));
    assert!(changed("more", json!(1)).contains("unknown field `more`"));
    assert!(changed("of", json!(-1)).contains("invalid value"));
    assert!(changed("groups", json!(["routing", "atom"])).contains("`groups`: `atom` is not known"));
    for shards in [json!([]), json!([0]), json!([3]), json!([1, 1])] {
        assert!(
            changed("shards", shards)
                .contains("`shards`: must be different numbers from 1 to `of`, which is 2")
        );
    }
    let mut short = good.clone();
    short.as_object_mut().unwrap().remove("tokens");
    assert!(refused(&short.to_string()).contains("missing field `tokens`"));
}

#[test]
fn hostile_sums_are_refused() {
    let place = Place::new();
    let text = serde_json::to_string(&header("1/2")).unwrap();
    let refused = |name: &str, dtype: RawDtype, shape: &[usize], values: &[f64]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let raw = RawTensor { dtype, shape: shape.to_vec(), bytes };
        let tensors = BTreeMap::from([(name.to_owned(), raw)]);
        place.refused(&encode_with_text(&tensors, "moepress_statistics", &text).unwrap())
    };
    let sums = "model.layers.0.gate_sum";
    assert_eq!(
        refused("model.layers.0.gates", RawDtype::F64, &[1], &[1.0]),
        "tensor \"model.layers.0.gates\": is the name of no statistic"
    );
    assert!(refused(sums, RawDtype::F32, &[2], &[1.0]).contains("F32 [2] where a vector of F64 is needed"));
    assert!(refused(sums, RawDtype::F64, &[1, 1], &[1.0]).contains("F64 [1, 1] where a vector"));
    assert!(refused(sums, RawDtype::F64, &[2], &[1.0, f64::NAN]).contains("gate_sum: element 1 is NaN"));
    assert!(refused(sums, RawDtype::F64, &[1], &[f64::INFINITY]).contains("element 0 is inf"));
    assert!(refused(sums, RawDtype::F64, &[1], &[-1.0]).contains("element 0 is -1"));
    assert!(refused("model.tokens", RawDtype::F64, &[1], &[0.5]).contains("element 0 is 0.5"));

    let whole = part("1/2", 1.0).encode().unwrap();
    for keep in [0, 7, 100, whole.len() - 1] {
        place.refused(&whole[..keep]);
    }
    place.refused(&[&whole[..], &[0]].concat());
    assert_eq!(
        StatisticsFile::read(&OsFiles, Path::new("nowhere")).unwrap_err().to_string(),
        "nowhere: file: missing"
    );
}

#[test]
fn the_same_files_add_up_to_the_same_bytes_in_any_order() {
    let place = Place::new();
    // Sums that depend on the order of their parts: 1 + 1 + 1e16 is more.
    let paths = [("1/3", 1e16), ("2/3", 1.0), ("3/3", 1.0)]
        .map(|(shard, value)| place.file(&shard.replace('/', "-"), &part(shard, value)));
    let merged = |order: &[usize]| {
        let paths: Vec<PathBuf> = order.iter().map(|&index| paths[index].clone()).collect();
        merge(&OsFiles, &paths, &Silent).unwrap()
    };
    let whole = merged(&[0, 1, 2]);
    assert_eq!(whole.header.shards, BTreeSet::from([1, 2, 3]));
    assert!(whole.header.is_complete() && whole.tokens().unwrap() == 6.0);
    assert_eq!(whole.sums.get(Of::Layer(0), Quantity::GateSum), Ok(&[1e16, 2e16][..]));
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        assert_eq!(merged(&order).encode().unwrap(), whole.encode().unwrap());
    }
    let two = place.file("two", &merged(&[2, 0]));
    let all = merge(&OsFiles, &[paths[1].clone(), two], &Silent).unwrap();
    assert_eq!(all.header, whole.header);
}

#[test]
fn what_does_not_add_up_is_named() {
    let place = Place::new();
    let first = place.file("first", &part("1/3", 1.0));
    let line = |other: &StatisticsFile| {
        let other = place.file("other", other);
        let error = merge(&OsFiles, &[first.clone(), other], &Silent).unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::BadInput));
        error.to_string().replace(&place.0.path().display().to_string(), "")
    };
    let changed = |change: fn(&mut StatisticsHeader)| {
        let mut other = part("2/3", 1.0);
        change(&mut other.header);
        line(&other)
    };
    assert_eq!(
        changed(|h| h.moepress = "0.0.1".into()),
        format!("/other: key `moepress`: is 0.0.1, /first has {}", env!("CARGO_PKG_VERSION"))
    );
    assert!(changed(|h| h.model = "m".into()).starts_with("/other: key `model`: is m, /first has "));
    assert_eq!(changed(|h| h.edits = "e".into()), "/other: key `edits`: is e, /first has none");
    assert!(changed(|h| h.tokens = "t".into()).starts_with("/other: key `tokens`: is t, /first has "));
    assert_eq!(
        changed(|h| h.groups = BTreeSet::from(["routing".to_owned()])),
        "/other: key `groups`: is routing, /first has atoms, routing"
    );
    assert_eq!(changed(|h| h.of = 4), "/other: key `of`: is 4, /first has 3");
    assert_eq!(line(&part("1/3", 1.0)), "/other: key `shards`: has shard 1 of 3, /first has it too");

    let mut longer = part("2/3", 1.0);
    longer.sums.add(Of::Layer(1), Quantity::GateSum, vec![1.0]).unwrap();
    let mut shorter = part("2/3", 1.0);
    shorter.sums = Statistics::default();
    shorter.sums.add(Of::Layer(0), Quantity::GateSum, vec![1.0]).unwrap();
    assert_eq!(
        line(&shorter),
        "/other: sums: statistic model.layers.0.gate_sum has 2 elements in one part and 1 in the other"
    );
    // An expert that only one shard reached.
    let longer = place.file("longer", &longer);
    assert!(merge(&OsFiles, &[first.clone(), longer], &Silent).is_ok());
    assert!(matches!(merge(&OsFiles, &[], &Silent), Err(PipelineError::Usage(_))));
}

#[test]
fn only_a_measurement_of_the_model_as_it_came_can_be_in_a_file() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/demo-qwen3-moe");
    let text = "version: 1\nmodel: m\ncalibration: {files: [t]}\nstages:\n  - prune_experts: {ratio: 0.25}\n  - quantize: {format: int8, group: 64}\n";
    let recipe = moepress_recipe::parse(text, Path::new("r.yaml"), &[]).unwrap();
    let files: Arc<dyn Files> = Arc::new(OsFiles);
    let checkpoint = Checkpoint::open(&files, &dir).unwrap();
    let (mut plan, _) = plan_with(&recipe, &checkpoint, false).unwrap();
    let (given, _) = plan_with(&recipe, &checkpoint, true).unwrap();
    assert_eq!((plan.walks["forward"], given.walks["forward"]), (1, 0));
    assert!(given.peak_memory_bytes < plan.peak_memory_bytes);
    let groups = |plan: &Plan| unedited_needs(&recipe, plan).map(|(needs, _)| needs.groups.clone());
    assert_eq!(groups(&plan).unwrap(), BTreeSet::from([Need::Routing]));
    plan.needs.swap(0, 1);
    let line = groups(&plan).unwrap_err().to_string();
    assert!(line.starts_with("r.yaml:6:5: ") && line.ends_with("so put this stage first"), "{line}");
    plan.needs = vec![None, None];
    assert!(groups(&plan).unwrap_err().to_string().contains("measures anything"));
}
