//! Progress on stderr: a bar on a terminal, elsewhere a plain line at most every ten seconds.

use crate::commands::Context;
use crate::output::stderr;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use moepress_checkpoint::Progress;
use serde_json::json;
use std::io::{IsTerminal, stderr as stderr_stream};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(10);

/// Shows progress until it is dropped.
pub struct Shown<'a> {
    context: &'a Context,
    terminal: bool,
    phase: Mutex<Phase>,
}

struct Phase {
    name: String,
    done: u64,
    started: Instant,
    stepped: Instant,
    said: Instant,
    bar: Option<ProgressBar>,
}

impl<'a> Shown<'a> {
    pub fn new(context: &'a Context) -> Self {
        let now = Instant::now();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let phase = Phase { name: String::new(), done: 0, started: now, stepped: now, said: now, bar: None };
        Self { context, terminal: stderr_stream().is_terminal() && !dumb, phase: Mutex::new(phase) }
    }
}

impl Progress for Shown<'_> {
    fn step(&self, name: &str, done: u64, total: u64) {
        if let Some(events) = &self.context.events {
            events.write(json!({"event": "step", "phase": name, "done": done, "total": total}));
        }
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if phase.name != name || done <= phase.done {
            phase.name = name.to_owned();
            // Its first unit began when the last phase ended.
            phase.started = phase.stepped;
            phase.clear();
            phase.bar = self.terminal.then(|| bar(name, total, phase.started));
        }
        (phase.done, phase.stepped) = (done, now);
        let elapsed = now - phase.started;
        match &phase.bar {
            Some(bar) if done >= total => bar.finish_and_clear(),
            Some(bar) => bar.set_position(done),
            None if done >= total && elapsed > EVERY => stderr(&line(name, done, total, elapsed)),
            None if done < total && now - phase.said >= EVERY => {
                phase.said = now;
                stderr(&line(name, done, total, elapsed));
            }
            None => {}
        }
    }

    fn note(&self, line: &str) {
        if let Some(events) = &self.context.events {
            events.write(json!({"event": "note", "text": line}));
        }
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let say = || stderr(&format!("note: {line}"));
        match &phase.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }

    fn cancelled(&self) -> bool {
        self.context.interrupt.came()
    }
}

impl Phase {
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        self.clear();
    }
}

/// No colour in it, so nothing to switch off for `NO_COLOR`.
fn bar(name: &str, total: u64, started: Instant) -> ProgressBar {
    let template = "{msg:<16} [{bar:32}] {pos}/{len}  {elapsed}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
        .with_elapsed(started.elapsed())
        .with_style(style.progress_chars("=> "))
        .with_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn line(name: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match total.saturating_sub(done) {
        0 => format!("{name} {done}/{total}, {seconds} s"),
        // The first ones, which run side by side or wait, say little about the others.
        _ if done < 3 => format!("{name} {done}/{total}, {seconds} s"),
        rest => {
            let left = elapsed.as_secs_f64() * rest as f64 / done.max(1) as f64;
            format!("{name} {done}/{total}, {seconds} s, about {left:.0} s left")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_long() {
        let after = Duration::from_secs(12);
        assert_eq!(line("calibrate", 3, 12, after), "calibrate 3/12, 12 s, about 36 s left");
        assert_eq!(line("calibrate", 2, 12, after), "calibrate 2/12, 12 s");
        assert_eq!(line("calibrate", 12, 12, after), "calibrate 12/12, 12 s");
    }
}
