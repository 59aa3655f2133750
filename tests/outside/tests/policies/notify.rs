//! A notifier that keeps a line an alert.

use std::sync::Mutex;

use together_inference::{
    async_trait,
    notify::{Alert, Notifier, NotifyError},
};

#[derive(Debug, Default)]
pub struct Inbox(Mutex<Vec<String>>);

impl Inbox {
    pub fn texts(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl Notifier for Inbox {
    async fn notify(&self, alert: &Alert) -> Result<(), NotifyError> {
        self.0.lock().unwrap().push(format!("{}: {}", alert.key(), alert.title()));
        Ok(())
    }
}
