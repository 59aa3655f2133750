//! Places where a test may end the process, to see that nothing is lost.
//!
//! `TOGETHER_INFERENCE_KILL_AT=name:3` ends it the third time that it comes to `name`;
//! `TOGETHER_INFERENCE_KILL_AT=list` prints each name to standard error instead. Not in builds without the simulator.

use std::sync::{
    LazyLock,
    atomic::{AtomicU32, Ordering},
};

static PLAN: LazyLock<Option<Plan>> = LazyLock::new(Plan::read);

enum Plan {
    List,
    Kill { at: String, left: AtomicU32 },
}

impl Plan {
    fn read() -> Option<Self> {
        let plan = std::env::var("TOGETHER_INFERENCE_KILL_AT").ok()?;
        if plan == "list" {
            return Some(Self::List);
        }
        let (at, times) = plan.rsplit_once(':').unwrap_or((&plan, "1"));
        Some(Self::Kill { at: at.to_owned(), left: AtomicU32::new(times.parse().unwrap_or(1)) })
    }
}

/// The process comes to this place.
pub(crate) fn reach(name: &str) {
    match &*PLAN {
        #[expect(clippy::print_stderr, reason = "whoever asks for the list reads it there")]
        Some(Plan::List) => eprintln!("kill point {name}"),
        // Ends every thread at once, like SIGKILL: nothing is unwound, flushed or told.
        Some(Plan::Kill { at, left }) if at == name && left.fetch_sub(1, Ordering::AcqRel) == 1 => {
            std::process::abort()
        }
        None | Some(Plan::Kill { .. }) => {}
    }
}
