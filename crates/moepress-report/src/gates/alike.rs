//! Whether two reports measured a figure in the same way: on the same text, cut alike, or on the same questions.

use super::{Metric, Needs};
use serde_json::Value;
use std::path::Path;

/// Whether the figure of both reports, of one text or task or of all, can be compared.
pub(crate) fn alike(metric: &Metric, a: &Value, b: &Value, of: Option<&str>) -> bool {
    match metric.needs {
        Needs::Nothing | Needs::OriginalSize | Needs::Run => true,
        Needs::Text | Needs::Original | Needs::Drift => text(a, b, "/evaluation/sampling", of),
        Needs::Calibration => text(a, b, "/calibration/sampling", of),
        Needs::Tasks | Needs::TasksOfOriginal => {
            let asked = |report: &Value| -> Vec<Value> {
                let tasks = report["tasks"].as_array().into_iter().flatten();
                tasks.filter(|task| of.is_none_or(|of| task["name"] == of)).cloned().collect()
            };
            asked(a) == asked(b)
        }
    }
}

/// The same text, cut alike.
fn text(a: &Value, b: &Value, pointer: &str, of: Option<&str>) -> bool {
    let (Some(a), Some(b)) = (a.pointer(pointer), b.pointer(pointer)) else { return false };
    let Some(of) = of else { return a == b };
    let cut = ["protocol", "window", "stride", "seed", "bos"];
    let file = |sampling: &Value| {
        let named = |file: &&Value| {
            Path::new(file["file"].as_str().unwrap_or_default()).file_stem().is_some_and(|stem| stem == of)
        };
        let found = sampling["files"].as_array().into_iter().flatten().find(named).cloned();
        // The weight is that of the text among others.
        found.map(|mut file| {
            file["weight"].take();
            file
        })
    };
    cut.iter().all(|key| a[key] == b[key]) && file(a) == file(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn figures_of_other_text_are_not_compared() {
        let a = serde_json::to_value(sample::evaluated()).unwrap();
        let same = |name: &str, b: &Value, of| alike(&Metric::named(name).unwrap(), &a, b, of);
        for name in ["nll", "kld_mean", "acc", "bpw"] {
            assert!(same(name, &a, None), "{name}");
        }
        let first = a["evaluation"]["sampling"]["files"][0]["file"].as_str().unwrap();
        let name = Path::new(first).file_stem().unwrap().to_str().unwrap().to_owned();
        let mut b = a.clone();
        b["evaluation"]["sampling"]["window"] = 17.into();
        assert!(!same("nll", &b, None) && !same("nll", &b, Some(&name)) && same("bpw", &b, None));
        let mut b = a.clone();
        b["evaluation"]["sampling"]["files"][0]["sha256"] = "another".into();
        assert!(!same("ppl", &b, None) && !same("ppl", &b, Some(&name)) && same("acc", &b, None));
        let mut b = a.clone();
        b["tasks"][0]["shots"] = 99.into();
        assert!(!same("acc", &b, None) && same("nll", &b, None));
        let mut b = a.clone();
        b["evaluation"].take();
        assert!(!same("nll", &b, None));
    }
}
