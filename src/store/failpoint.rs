//! Places where a test may end or stop the process, to see that nothing is lost or done twice.
//!
//! `TOGETHER_INFERENCE_KILL_AT=name:3` ends it the third time that it comes to `name`;
//! `TOGETHER_INFERENCE_KILL_AT=list` prints each name to standard error instead. `TOGETHER_INFERENCE_STOP_AT=name:3`
//! stops it there until somebody lets it go on, and prints the names that it comes to from then on. Not in builds
//! without the simulator.

use std::{
    io::Write,
    process::Command,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

static PLAN: LazyLock<Option<Plan>> = LazyLock::new(Plan::read);

enum Plan {
    List,
    Kill(Place),
    Stop(Place),
}

struct Place {
    name: String,
    left: AtomicU32,
}

impl Plan {
    fn read() -> Option<Self> {
        match std::env::var("TOGETHER_INFERENCE_KILL_AT") {
            Ok(plan) if plan == "list" => Some(Self::List),
            Ok(plan) => Some(Self::Kill(Place::of(&plan))),
            Err(_) => std::env::var("TOGETHER_INFERENCE_STOP_AT").ok().map(|plan| Self::Stop(Place::of(&plan))),
        }
    }
}

impl Place {
    fn of(plan: &str) -> Self {
        let (name, times) = plan.rsplit_once(':').unwrap_or((plan, "1"));
        Self { name: name.to_owned(), left: AtomicU32::new(times.parse().unwrap_or(1)) }
    }

    /// Whether this is it.
    fn is(&self, name: &str) -> bool {
        let count = |left: u32| left.checked_sub(1);
        self.name == name && self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, count) == Ok(1)
    }

    fn is_passed(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }
}

/// The process comes to this place.
pub(crate) fn reach(name: &str) {
    match &*PLAN {
        Some(Plan::List) => tell(name),
        // Ends every thread at once, like SIGKILL: nothing is unwound, flushed or told.
        Some(Plan::Kill(place)) if place.is(name) => std::process::abort(),
        Some(Plan::Stop(place)) if place.is_passed() => tell(name),
        Some(Plan::Stop(place)) if place.is(name) => stop(),
        None | Some(Plan::Kill(_) | Plan::Stop(_)) => {}
    }
}

/// Written at once: others write there too.
fn tell(name: &str) {
    let _ = std::io::stderr().write_all(format!("kill point {name}\n").as_bytes());
}

/// Stops every thread at once, this one too: whoever sends the signal waits until it has done so.
fn stop() {
    let own = std::process::id();
    let signal = format!(
        "kill -STOP {own}
         for look in $(seq 1000); do grep -q '^State:.T' /proc/{own}/status && exit; sleep 0.01; done"
    );
    let _ = Command::new("sh").args(["-c", &signal]).status();
}
