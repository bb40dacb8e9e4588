//! What a solver did with all matrices, in a few lines.

use moepress_quant::solve::Curvature;
use moepress_stages::{Decided, Solved};

/// Counts over the matrices that were rounded by what reaches them.
#[derive(Debug, Default)]
pub(crate) struct Rounded {
    matrices: usize,
    /// No token reached them.
    unreached: usize,
    /// Their gram cannot be factored whatever the damping.
    indefinite: usize,
    /// Their damping had to grow.
    grown: usize,
    rows: usize,
    rows_nearest: usize,
    /// Squared output errors, and those of rounding to nearest.
    ratios: f64,
    compared: usize,
    /// Experts fitted anew, and those where no fit did better on held-out windows.
    refit: usize,
    left: usize,
    /// Squared errors on held-out windows before and after.
    before: f64,
    after: f64,
}

impl Rounded {
    pub fn add(&mut self, decided: &Decided) {
        decided.solved.iter().for_each(|solved| self.add_solved(solved));
        if let Some(refit) = decided.refit {
            match refit.ridge {
                Some(_) => self.refit += 1,
                None => self.left += 1,
            }
            self.before += refit.before;
            self.after += refit.after;
        }
    }

    fn add_solved(&mut self, solved: &Solved) {
        let report = &solved.report;
        self.matrices += 1;
        match report.curvature {
            Curvature::Empty => self.unreached += 1,
            Curvature::Indefinite => self.indefinite += 1,
            Curvature::Gram { tries, .. } => self.grown += usize::from(tries > 1),
        }
        if matches!(report.curvature, Curvature::Gram { .. }) {
            self.rows += solved.rows;
            self.rows_nearest += report.rows_nearest;
            if report.objective_nearest > 0.0 {
                self.ratios += report.objective / report.objective_nearest;
                self.compared += 1;
            }
        }
    }

    /// Lines for the report.
    pub fn notes(&self) -> Vec<String> {
        let percent = |share: f64| format!("{:.1}%", 100.0 * share);
        let mut notes = vec![];
        if self.refit + self.left > 0 {
            notes.push(format!(
                "compensate: down_proj of {} experts was fitted anew, their squared error on held-out windows went to {}; {} are as they were, no fit did better there",
                self.refit,
                percent(self.after / self.before.max(f64::MIN_POSITIVE)),
                self.left,
            ));
        }
        if self.matrices > 0 {
            notes.push(format!("gptq: {} matrices were rounded by what reaches them", self.matrices));
        }
        if self.compared > 0 {
            notes.push(format!(
                "gptq: their squared output error is on average {} of that of rounding to nearest; {} of their rows are as that leaves them",
                percent(self.ratios / self.compared as f64),
                percent(self.rows_nearest as f64 / self.rows.max(1) as f64),
            ));
        }
        if self.grown > 0 {
            notes.push(format!("gptq: {} matrices needed more damping than asked for", self.grown));
        }
        if self.unreached > 0 {
            notes.push(format!(
                "gptq: {} matrices were reached by no calibration token and rounded to nearest",
                self.unreached
            ));
        }
        if self.indefinite > 0 {
            notes.push(format!(
                "gptq: the inputs of {} matrices allow no factor at any damping; they were rounded to nearest",
                self.indefinite
            ));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_quant::solve::Report;

    #[test]
    fn every_way_of_falling_back_is_told() {
        let mut rounded = Rounded::default();
        let mut add = |curvature, objective, rows_nearest| {
            let report = Report { curvature, objective, objective_nearest: 4.0, rows_nearest };
            rounded.add_solved(&Solved { rows: 8, report });
        };
        add(Curvature::Gram { damp: 1.0, tries: 1 }, 1.0, 1);
        add(Curvature::Gram { damp: 1.0, tries: 3 }, 3.0, 3);
        add(Curvature::Empty, 4.0, 8);
        add(Curvature::Indefinite, 4.0, 8);
        let notes = rounded.notes().join("\n");
        for wanted in [
            "4 matrices were rounded",
            "average 50.0%",
            "25.0% of their rows",
            "1 matrices needed more",
            "1 matrices were reached by no",
            "of 1 matrices allow no",
        ] {
            assert!(notes.contains(wanted), "{wanted}: {notes}");
        }
    }
}
