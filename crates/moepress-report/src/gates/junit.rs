//! Verdicts as JUnit XML, which every CI system shows.

use moepress_pipeline::Verdict;

/// One test case per gate.
pub fn junit(verdicts: &[Verdict]) -> String {
    let failures = verdicts.iter().filter(|verdict| verdict.failed).count();
    let case = |verdict: &Verdict| {
        let name = escape(&verdict.gate);
        let head = format!("    <testcase classname=\"moepress.gates\" name=\"{name}\"");
        match verdict.line() {
            None => format!("{head}/>\n"),
            Some(line) => {
                format!("{head}>\n      <failure message=\"{}\"/>\n    </testcase>\n", escape(&line))
            }
        }
    };
    let cases: String = verdicts.iter().map(case).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"moepress gates\" tests=\"{}\" \
         failures=\"{failures}\">\n{cases}  </testsuite>\n</testsuites>\n",
        verdicts.len()
    )
}

/// Text in an attribute; what XML cannot hold becomes a replacement character.
fn escape(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\t' | '\n' | '\r' => " ".to_owned(),
        _ if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => '\u{fffd}'.to_string(),
        _ => c.to_string(),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told() {
        let verdict =
            |gate: &str, failed| Verdict { gate: gate.into(), value: Some(2.0), bound: Some(1.0), failed };
        let xml = junit(&[verdict("bpw>1", true), verdict("a<\"&\u{1}", false)]);
        assert!(xml.contains("tests=\"2\" failures=\"1\""), "{xml}");
        assert!(xml.contains("<failure message=\"bpw&gt;1 (measured 2, bound 1)\"/>"), "{xml}");
        assert!(xml.contains("name=\"a&lt;&quot;&amp;\u{fffd}\"/>"), "{xml}");
        assert!(junit(&[]).contains("tests=\"0\""));
    }
}
