//! Two formats: all matrices get the smaller one, and those that matter most are raised to the larger while the
//! budget lasts (QuantMoE-Bench, arXiv 2406.08155).

use super::{Chosen, Task};
use moepress_model::Tensor;

/// Raises units, sets of matrices that go together, in the order given. One that does not fit is passed over.
pub(super) fn raise(task: &Task<'_>, units: &[Vec<Tensor>], what: &str) -> Chosen {
    let formats = task.by_size();
    let [small, .., large] = formats[..] else { return Chosen::default() };
    let bytes = |tensors: &[Tensor], format| tensors.iter().map(|&t| task.bytes(t, format)).sum::<u64>();
    let mut left = task.room.saturating_sub(bytes(&task.tensors, small));
    let mut chosen = Chosen::default();
    let mut raised = 0;
    for unit in units {
        // Ordered by the size of all matrices: that of one may differ.
        let more = bytes(unit, large).saturating_sub(bytes(unit, small));
        let format = if more <= left { large } else { small };
        if format == large {
            left -= more;
            raised += 1;
        }
        chosen.formats.extend(unit.iter().map(|&tensor| (tensor, format)));
    }
    chosen
        .notes
        .push(format!("assign_bits: {raised} of {} {what} in {large}, the others in {small}", units.len()));
    chosen
}
