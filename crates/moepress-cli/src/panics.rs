//! A panic is a fault of moepress: it is reported in one line like any other error.

use crate::failure::{Failure, Reason};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::{Arc, Mutex, PoisonError};

/// What `work` returns, or the failure that a panic in it is.
///
/// A panic that is caught further down stays silent: the hook only remembers.
pub fn caught<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let last = Arc::new(Mutex::new(String::new()));
    let seen = last.clone();
    set_hook(Box::new(move |info| {
        let at = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let what = info.payload_as_str().unwrap_or("no message");
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = format!("{what}{at}");
    }));
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let what = last.lock().unwrap_or_else(PoisonError::into_inner);
        Err(Failure::new(Reason::Fault, format!("internal fault: {what}, please report it")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_one_line() {
        let failure = caught::<()>(|| panic!("two\nlines")).unwrap_err();
        assert_eq!(failure.code(), 1);
        assert!(failure.message.starts_with("internal fault: two\\nlines at "), "{}", failure.message);
        assert!(failure.message.ends_with(", please report it"));
    }
}
