//! Experts that tokens reach and that return nothing.

use moepress_stats::{Of, Quantity, Statistics};

/// Most experts that are named.
const NAMED: usize = 8;

/// A line about the experts whose output was zero for every token; none where there are none, or outputs were not
/// measured.
pub(crate) fn idle_experts(layers: usize, stats: &Statistics) -> Option<String> {
    let mut idle = vec![];
    for layer in 0..layers {
        let norms = stats.get(Of::Layer(layer), Quantity::NormSum).ok();
        let returns_zero = |expert: usize| match norms {
            Some(norms) => norms.get(expert) == Some(&0.0),
            None => {
                let energy = stats.get(Of::Expert(layer, expert), Quantity::AtomEnergy);
                energy.is_ok_and(|energy| energy.iter().all(|&energy| energy == 0.0))
            }
        };
        let tokens = stats.get(Of::Layer(layer), Quantity::Tokens).unwrap_or_default();
        let found = (0..tokens.len()).filter(|&expert| tokens[expert] > 0.0 && returns_zero(expert));
        idle.extend(found.map(|expert| format!("layer {layer} expert {expert}")));
    }
    let more = match idle.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = idle.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    (!idle.is_empty()).then(|| {
        format!(
            "{named}{more}: the output is zero for every token that is routed there (are its weights zero?)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_told_from_unreached_and_unmeasured() {
        let mut stats = Statistics::default();
        let mut add = |layer, quantity, values: &[f64]| {
            stats.add(Of::Layer(layer), quantity, values.to_vec()).unwrap();
        };
        add(0, Quantity::Tokens, &[3.0, 0.0]);
        add(0, Quantity::NormSum, &[1e-30, 0.0]);
        add(1, Quantity::Tokens, &[4.0; 9]);
        add(2, Quantity::Tokens, &[1.0]);
        add(2, Quantity::NormSum, &[0.0]);
        add(3, Quantity::Tokens, &[1.0, 1.0]);
        stats.add(Of::Expert(3, 0), Quantity::AtomEnergy, vec![0.0, 1.0]).unwrap();
        stats.add(Of::Expert(3, 1), Quantity::AtomEnergy, vec![0.0, 0.0]).unwrap();
        let line = idle_experts(4, &stats).unwrap();
        assert!(line.starts_with("layer 2 expert 0, layer 3 expert 1: the output is zero"), "{line}");
        let mut stats = Statistics::default();
        stats.add(Of::Layer(1), Quantity::Tokens, vec![4.0; 9]).unwrap();
        assert_eq!(idle_experts(2, &stats), None);
        stats.add(Of::Layer(1), Quantity::NormSum, vec![0.0; 9]).unwrap();
        assert!(idle_experts(2, &stats).unwrap().contains("layer 1 expert 7 and 1 more: "));
    }
}
