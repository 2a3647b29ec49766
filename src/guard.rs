//! Calls of libraries that panic where they could return an error: on damaged files, and when a device fails.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;

use crate::device::DeviceError;
use crate::error::Result;

/// With this begins Burn's message when values cannot be read from a device, which is where a failure of anything that
/// was computed before shows.
const READING: &str = "Error while reading data";

/// Which panics of a thread are not reported on stderr, because they become something else.
#[derive(Clone, Copy, PartialEq)]
enum Silent {
    None,
    Device,
    All,
}

thread_local! {
    static SILENT: Cell<Silent> = const { Cell::new(Silent::None) };
}

/// The result of `read`; `None`, and nothing on stderr, if it panics.
pub(crate) fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    caught(Silent::All, read).ok()
}

/// The result of `work`, in which a device may fail: run out of memory, or be lost.
///
/// # Errors
/// Those of `work`; [`DeviceError::Failed`] if values cannot be read from a device.
pub fn with_device<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(Silent::Device, work).unwrap_or_else(|panic| match message(&*panic) {
        Some(text) if text.starts_with(READING) => Err(failure(text).into()),
        _ => resume_unwind(panic),
    })
}

fn caught<T>(silent: Silent, work: impl FnOnce() -> T) -> std::thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let of_device = || message(panic.payload()).is_some_and(|m| m.starts_with(READING));
            match SILENT.get() {
                Silent::All => {}
                Silent::Device if of_device() => {}
                Silent::Device | Silent::None => usual(panic),
            }
        }));
    });
    let before = SILENT.replace(silent);
    let found = catch_unwind(AssertUnwindSafe(work));
    SILENT.set(before);
    found
}

/// The text that a panic was raised with.
fn message(payload: &(dyn Any + Send)) -> Option<&str> {
    let owned = payload.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| payload.downcast_ref::<&str>().copied())
}

/// The failure that `text` tells of, an error of Burn's.
pub(crate) fn failure(text: &str) -> DeviceError {
    DeviceError::Failed { reason: root(text).to_owned() }
}

/// The first line of the last cause in `text`, which lists causes from the outermost in.
fn root(text: &str) -> &str {
    let cause = text.rsplit("Caused by:").next().unwrap_or(text);
    cause.trim().lines().next().unwrap_or("no reason was given")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_none_and_the_next_call_works() {
        assert_eq!(guarded(|| -> u8 { panic!("damaged") }), None);
        assert_eq!(guarded(|| guarded(|| 1)), Some(Some(1)));
        assert!(SILENT.get() == Silent::None);
    }

    #[test]
    fn a_failed_read_is_an_error_with_its_root_and_other_panics_go_on() {
        let text = "Error while reading data: use `try_into_data` instead to catch the error at runtime: An error \
                    happened\nCaused by:\n  Several failures at once\nCaused by:\n  out of device memory \
                    allocating 512 bytes\nNo backtrace available\nAsked at:\n";
        let failed = with_device::<()>(|| panic!("{text}")).unwrap_err();
        assert_eq!(failed.exit_code(), 4);
        assert!(
            failed.to_string().contains("out of device memory allocating 512 bytes;"),
            "{failed}"
        );
        assert!(!failed.to_string().contains("Caused"), "{failed}");
        assert!(guarded(|| with_device::<()>(|| panic!("a mistake"))).is_none());
        assert_eq!(with_device(|| Ok(3)).unwrap(), 3);
    }
}
