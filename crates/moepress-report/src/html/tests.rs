use super::*;
use crate::sample;

/// Every element that is opened is closed, in order; attributes are quoted.
fn check_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap();
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "a bare > before {:?}", &rest[start..]);
        let end = rest[start..].find('>').unwrap() + start;
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<') && tag.matches('"').count().is_multiple_of(2), "{tag:?}");
        rest = &rest[end + 1..];
        let name = tag.trim_end_matches('/').split_whitespace().next().unwrap();
        if let Some(closed) = name.strip_prefix('/').or(tag.strip_suffix('/').map(|_| "")) {
            if !closed.is_empty() {
                assert_eq!(open.pop(), Some(closed));
            }
        } else if name != "meta" {
            open.push(name);
        }
        if name == "style" {
            rest = &rest[rest.find("</style>").unwrap()..];
        }
    }
    assert_eq!(open, [""; 0]);
}

#[test]
fn pages_are_well_formed_and_load_nothing() {
    for report in [sample::plain(), sample::evaluated(), sample::hostile()] {
        let page = html(&report);
        check_well_formed(&page);
        for word in ["http", "src=", "href=", "url(", "@import", "<script", "<link"] {
            assert!(!page.contains(word), "{word}");
        }
    }
}

#[test]
fn hostile_names_stay_text() {
    assert_eq!(escape("<a href='x'>\"&\u{0}"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;\u{fffd}");
    assert!(html(&sample::hostile()).matches("&lt;script&gt;").count() >= 8);
}

#[test]
fn what_was_not_measured_is_not_shown() {
    let page = html(&sample::evaluated());
    for words in [
        "13.4 MB → 3.20 MB, perplexity 27.9 → 29.5",
        "4.19×",
        "91.2%",
        "layer 1: 3, 8; layer 3: 13",
        "merged with 4",
        "How much smaller?",
        "top1&lt;0.95",
        "Tokens by divergence",
        "Predicted and measured loss",
        "read text and headers",
    ] {
        assert!(page.contains(words), "{words}");
    }
    let page = html(&sample::plain());
    assert!(page.contains("Nothing was measured") && !page.contains("Perplexity of every text"));
    assert!(!page.contains("Quality gates"));
}

#[test]
fn an_evaluation_alone_has_a_page_too() {
    let mut report = sample::evaluated();
    report.command = "eval";
    report.before = report.after.clone();
    report.recipe = String::new();
    let comparison = report.evaluation.as_mut().unwrap();
    (comparison.original, comparison.original_decode_tokens_per_second) = (None, None);
    comparison.compact_decode_tokens_per_second = None;
    comparison.compact.overall.divergence = None;
    comparison.compact.texts.iter_mut().for_each(|text| text.divergence = None);
    let page = html(&report);
    check_well_formed(&page);
    assert!(page.contains("Evaluated with moepress") && page.contains("How good?"));
    for words in ["times smaller.", "Recipe", "Distance from the original", "NaN"] {
        assert!(!page.contains(words), "{words}");
    }
}

#[test]
fn large_models_have_small_pages() {
    let mut report = sample::evaluated();
    let experts = report.layers[0].experts.iter().cycle().take(512).cloned().collect();
    let layer = moepress_pipeline::LayerReport { layer: 0, experts };
    report.layers =
        (0..94).map(|index| moepress_pipeline::LayerReport { layer: index, ..layer.clone() }).collect();
    let page = html(&report);
    check_well_formed(&page);
    assert!(page.len() < 4 << 20, "{} bytes", page.len());
}
