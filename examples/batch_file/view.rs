//! How far the batch is: a bar on a terminal, plain lines elsewhere.

use std::{io::IsTerminal, pin::pin, time::Duration};

use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use together_inference::{
    batch::{BatchPhase, BatchProgress, Done},
    service::BatchTicket,
};

pub(crate) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(crate) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} [{elapsed}]");
        let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(250));
        Self(Some(bar))
    }

    fn show(&self, progress: &BatchProgress, last: &mut String) {
        let done = progress.done.lines() + progress.failed;
        let text = text(progress);
        match &self.0 {
            Some(bar) => {
                bar.set_length(progress.total);
                bar.set_position(done);
                bar.set_message(text);
            }
            None if *last != text => {
                eprintln!("{done}/{} {text}", progress.total);
                *last = text;
            }
            None => {}
        }
    }
}

/// Shows how far the batch is until its end.
pub(crate) async fn follow(ticket: &BatchTicket, bar: &Bar) {
    let (mut progress, mut last) = (pin!(ticket.progress()), String::new());
    while let Some(Ok(now)) = progress.next().await {
        bar.show(&now, &mut last);
    }
    if let Some(bar) = &bar.0 {
        bar.finish();
    }
}

fn text(progress: &BatchProgress) -> String {
    let phase = match progress.phase {
        BatchPhase::Planned => "waits to be submitted",
        BatchPhase::Running => "runs",
        BatchPhase::Cancelling => "is being stopped",
        _ => "is over",
    };
    let mut text = phase.to_owned();
    if let Done::Estimated(_) = progress.done {
        text.push_str(" (by the provider's percent)");
    }
    if let Some((half, most)) = progress.eta {
        text.push_str(&format!(", {} to {} left", minutes(half), minutes(most)));
    }
    if progress.failed > 0 {
        text.push_str(&format!(", {} failed", progress.failed));
    }
    if !progress.cost_so_far.is_zero() {
        text.push_str(&format!(", {}", progress.cost_so_far));
    }
    text
}

fn minutes(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}
