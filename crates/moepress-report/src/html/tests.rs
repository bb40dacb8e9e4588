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
    ] {
        assert!(page.contains(words), "{words}");
    }
    let page = html(&sample::plain());
    assert!(page.contains("Nothing was measured") && !page.contains("erplexity"));
}
