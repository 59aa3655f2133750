//! The controls of files and batches: what is there, how long it takes, how it ends.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::{files::File, together::Together},
    create,
    job::{Fate, Job},
    script::OnRow,
};

/// A batch job of the simulator, see [`Together::batches`].
///
/// ```
/// let together = together_inference::testing::Together::new();
/// let id = together.add_batch([]);
/// assert_eq!((&together.batches()[0].id, &*together.batches()[0].status), (&id, "VALIDATING"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimBatch {
    /// Its id.
    pub id: String,
    /// The file with its requests.
    pub input_file_id: String,
    /// Its status as the API writes it: `VALIDATING`, `IN_PROGRESS`, `CANCELING`, `COMPLETED` and so on.
    pub status: String,
    /// How many requests it has; 0 before they were validated.
    pub lines: usize,
    /// How many of them are finished, whatever became of them.
    pub finished: usize,
}

impl From<&Job> for SimBatch {
    fn from(job: &Job) -> Self {
        Self {
            id: job.id.clone(),
            input_file_id: job.input.clone(),
            status: job.status().to_owned(),
            lines: job.lines.len(),
            finished: job.finished,
        }
    }
}

/// # Files and batches
///
/// A job is `VALIDATING` for 5 seconds; then its rows finish evenly over 7 minutes, in an order that depends on the
/// seed, answered and scripted as chat is. Durations are multiplied by the [time scale](super::TogetherBuilder::time_scale).
impl Together {
    /// Its jobs in the order they were created, as they are now.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use std::time::Duration;
    /// use together_inference::testing::Together;
    ///
    /// let together = Together::new();
    /// let ask = r#"{"custom_id":"a","body":{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"hi"}]}}"#;
    /// together.add_batch([ask]);
    /// tokio::time::sleep(Duration::from_secs(8 * 60)).await;
    /// let job = &together.batches()[0];
    /// assert_eq!((&*job.status, job.lines, job.finished), ("COMPLETED", 1, 1));
    /// assert_eq!(together.bill().lines[0].custom_id.as_deref(), Some("a"));
    /// # }
    /// ```
    #[must_use]
    pub fn batches(&self) -> Vec<SimBatch> {
        self.shared.settled().batches.jobs.iter().map(SimBatch::from).collect()
    }

    /// Adds a job for these lines, as another process may have created it; says its id.
    ///
    /// ```
    /// let together = together_inference::testing::Together::new();
    /// together.add_batch(["not JSON"]);
    /// assert_eq!(together.batches().len(), 1);
    /// ```
    pub fn add_batch<'a>(&self, lines: impl IntoIterator<Item = &'a str>) -> String {
        let content = lines.into_iter().fold(String::new(), |text, line| text + line + "\n");
        let input = self.add_file("batch.jsonl", content);
        let mut state = self.shared.settled();
        let body = json!({"endpoint": "/v1/chat/completions", "input_file_id": input});
        drop(create(&mut state, &self.shared.config, &body, Instant::now()));
        state.batches.jobs.last().map(|job| job.id.clone()).unwrap_or_default()
    }

    /// Adds a file as if it had been uploaded; says its id.
    ///
    /// ```
    /// let together = together_inference::testing::Together::new();
    /// let id = together.add_file("a.jsonl", "{}\n");
    /// assert_eq!(together.file(&id).as_deref(), Some(&b"{}\n"[..]));
    /// ```
    pub fn add_file(&self, name: &str, content: impl Into<Bytes>) -> String {
        let mut state = self.shared.settled();
        let created = state.micros(&self.shared.config, Instant::now());
        let file = File::uploaded(name.to_owned(), created, content.into());
        state.store.add(self.shared.config.seed, file)
    }

    /// What is in a file, if there is one of this id and it was uploaded.
    ///
    /// ```
    /// let together = together_inference::testing::Together::new();
    /// assert_eq!(together.file("file-none"), None);
    /// ```
    #[must_use]
    pub fn file(&self, id: &str) -> Option<Bytes> {
        self.shared.settled().store.get(id, Instant::now()).and_then(|file| file.content.clone())
    }

    /// Starts a script for rows of batches whose `custom_id` is this text or whose last user message contains it; `""`
    /// is contained in all.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use std::time::Duration;
    /// use together_inference::testing::Together;
    ///
    /// let together = Together::new();
    /// together.on_batch_row("a").times(1).fails();
    /// let ask = r#"{"custom_id":"a","body":{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"hi"}]}}"#;
    /// together.add_batch([ask]);
    /// tokio::time::sleep(Duration::from_secs(8 * 60)).await;
    /// assert_eq!((together.batches()[0].finished, together.bill().calls), (1, 0), "an error is not charged");
    /// # }
    /// ```
    pub fn on_batch_row(&self, text: impl Into<String>) -> OnRow<'_> {
        OnRow::new(&self.shared, text.into())
    }

    /// How long the rows of a job take, from the end of its validation. For jobs that are created from now on, as the
    /// next two.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use std::time::Duration;
    /// use together_inference::testing::Together;
    ///
    /// let together = Together::new();
    /// together.batch_time(Duration::from_secs(3_600));
    /// let ask = r#"{"custom_id":"a","body":{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"hi"}]}}"#;
    /// together.add_batch([ask]);
    /// tokio::time::sleep(Duration::from_secs(3_600)).await;
    /// assert_eq!(together.batches()[0].status, "IN_PROGRESS");
    /// tokio::time::sleep(Duration::from_secs(5)).await;
    /// assert_eq!(together.batches()[0].status, "COMPLETED");
    /// # }
    /// ```
    pub fn batch_time(&self, time: Duration) {
        self.shared.lock().batches.settings.time = time;
    }

    /// How long a job is `VALIDATING`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use std::time::Duration;
    /// use together_inference::testing::Together;
    ///
    /// let together = Together::new();
    /// together.batch_validation(Duration::from_secs(3_600));
    /// together.add_batch(["not JSON"]);
    /// tokio::time::sleep(Duration::from_secs(3_599)).await;
    /// assert_eq!(together.batches()[0].status, "VALIDATING");
    /// tokio::time::sleep(Duration::from_secs(1)).await;
    /// assert_eq!(together.batches()[0].status, "FAILED");
    /// # }
    /// ```
    pub fn batch_validation(&self, time: Duration) {
        self.shared.lock().batches.settings.validation = time;
    }

    /// After which age a job is `EXPIRED`; 24 hours unless set. `Duration::MAX` for never.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use std::time::Duration;
    /// use together_inference::testing::Together;
    ///
    /// let together = Together::new();
    /// together.stick_batches(0.5);
    /// let ask = r#"{"custom_id":"a","body":{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"hi"}]}}"#;
    /// together.add_batch([ask]);
    /// together.batch_window(Duration::MAX);
    /// together.add_batch([ask]);
    /// tokio::time::sleep(Duration::from_secs(72 * 3_600)).await;
    /// let statuses = together.batches().into_iter().map(|job| job.status);
    /// assert_eq!(statuses.collect::<Vec<_>>(), ["EXPIRED", "IN_PROGRESS"]);
    /// # }
    /// ```
    pub fn batch_window(&self, window: Duration) {
        self.shared.lock().batches.settings.window = window;
    }

    /// How old a job must be to be listed; by its id it is found at once. Holds at once, as all that follow but for
    /// those of the next jobs.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use together_inference::{client::{Body, Transport}, testing::Together};
    ///
    /// let together = Together::new();
    /// together.batch_list_lag(Duration::from_secs(20));
    /// together.add_batch([]);
    /// let list = http::Request::get("/v1/batches").header("authorization", "Bearer any").body(Body::empty())?;
    /// assert_eq!(together.send(list).await?.into_body().as_bytes(), Some(&b"[]"[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch_list_lag(&self, lag: Duration) {
        self.shared.lock().batches.settings.list_lag = lag;
    }

    /// How much less rows of this model cost, in percent; 50 for two models unless set, 0 for all others.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use std::time::Duration;
    /// use together_inference::testing::Together;
    ///
    /// let mut charged = Vec::new();
    /// for percent in [0, 50] {
    ///     let together = Together::new();
    ///     together.batch_discount("acme/Tiny", percent);
    ///     together.add_model(together_inference::testing::SimModel::chat("acme/Tiny").price(2_000_000, 2_000_000));
    ///     let ask = r#"{"custom_id":"a","body":{"model":"acme/Tiny","messages":[{"role":"user","content":"hi"}]}}"#;
    ///     together.add_batch([ask]);
    ///     tokio::time::sleep(Duration::from_secs(8 * 60)).await;
    ///     charged.push(together.bill().nano_usd);
    /// }
    /// assert!(charged[1] > 0 && charged[0] == 2 * charged[1]);
    /// # }
    /// ```
    pub fn batch_discount(&self, model: &str, percent: u8) {
        self.shared.settled().batches.discounts.insert(model.to_owned(), percent.min(100));
    }

    /// Refuses this model in batches: a job of that model alone fails as a whole, else its rows do.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use std::time::Duration;
    /// use together_inference::testing::Together;
    ///
    /// let together = Together::new();
    /// together.refuse_batches("zai-org/GLM-5.3");
    /// let ask = r#"{"custom_id":"a","body":{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"hi"}]}}"#;
    /// together.add_batch([ask]);
    /// tokio::time::sleep(Duration::from_secs(5)).await;
    /// assert_eq!(together.batches()[0].status, "FAILED");
    /// # }
    /// ```
    pub fn refuse_batches(&self, model: &str) {
        self.shared.settled().batches.refused.insert(model.to_owned());
    }

    /// Takes this model in batches again.
    pub fn accept_batches(&self, model: &str) {
        self.shared.settled().batches.refused.remove(model);
    }

    /// Finishes no more than this share of the rows of a job, `0.6` for 600 of 1,000, until [`heal`](Self::heal).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use std::time::Duration;
    /// use together_inference::testing::Together;
    ///
    /// let together = Together::new();
    /// together.stick_batches(0.5);
    /// let ask = r#"{"custom_id":"a","body":{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"hi"}]}}"#;
    /// together.add_batch([ask; 10]);
    /// tokio::time::sleep(Duration::from_secs(3_600)).await;
    /// assert_eq!(together.batches()[0].finished, 5);
    /// together.heal();
    /// assert_eq!(together.batches()[0].status, "COMPLETED");
    /// # }
    /// ```
    pub fn stick_batches(&self, share: f64) {
        self.shared.settled().batches.settings.stuck = Some(share);
    }

    /// Lets the next `count` jobs that are created finish this share of their rows and then be `EXPIRED`, at the time
    /// when they would have been complete.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use std::time::Duration;
    /// use together_inference::testing::Together;
    ///
    /// let together = Together::new();
    /// together.expire_batches(1, 0.6);
    /// let ask = r#"{"custom_id":"a","body":{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"hi"}]}}"#;
    /// together.add_batch([ask; 10]);
    /// tokio::time::sleep(Duration::from_secs(8 * 60)).await;
    /// let job = &together.batches()[0];
    /// assert_eq!((&*job.status, job.finished), ("EXPIRED", 6));
    /// # }
    /// ```
    pub fn expire_batches(&self, count: usize, share: f64) {
        self.plan(count, &Fate::Expire(share));
    }

    /// Lets the next `count` jobs that are created fail with this message, at the end of their validation.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use std::time::Duration;
    /// use together_inference::testing::Together;
    ///
    /// let together = Together::new();
    /// together.fail_batches(1, "Internal error");
    /// together.add_batch([]);
    /// tokio::time::sleep(Duration::from_secs(5)).await;
    /// assert_eq!(together.batches()[0].status, "FAILED");
    /// # }
    /// ```
    pub fn fail_batches(&self, count: usize, message: &str) {
        self.plan(count, &Fate::Fail(message.to_owned()));
    }

    fn plan(&self, count: usize, fate: &Fate) {
        self.shared.lock().batches.fates.extend(std::iter::repeat_n(fate.clone(), count));
    }

    /// Answers 404 for the output file of a job for so long after its end, until [`heal`](Self::heal). For jobs that end
    /// from now on, as the next two.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use together_inference::testing::Together;
    ///
    /// let together = Together::new();
    /// together.output_file_late(Duration::from_secs(60));
    /// let ask = r#"{"custom_id":"a","body":{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"hi"}]}}"#;
    /// let id = together.add_batch([ask]);
    /// tokio::time::sleep(Duration::from_secs(7 * 60 + 5)).await;
    /// let output = together.batch_json(&id)["output_file_id"].as_str().map(str::to_owned).ok_or("no output")?;
    /// assert_eq!(together.file(&output), None);
    /// tokio::time::sleep(Duration::from_secs(60)).await;
    /// assert!(together.file(&output).is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn output_file_late(&self, late: Duration) {
        self.shared.settled().batches.settings.output_late = late;
    }

    /// Answers 404 for the error file of a job for so long after its end.
    pub fn error_file_late(&self, late: Duration) {
        self.shared.settled().batches.settings.errors_late = late;
    }

    /// Gives jobs an error file without a byte where no row failed, until [`heal`](Self::heal).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use together_inference::testing::Together;
    ///
    /// let together = Together::new();
    /// together.empty_error_file();
    /// let ask = r#"{"custom_id":"a","body":{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"hi"}]}}"#;
    /// let id = together.add_batch([ask]);
    /// tokio::time::sleep(Duration::from_secs(8 * 60)).await;
    /// let errors = together.batch_json(&id)["error_file_id"].as_str().map(str::to_owned).ok_or("no error file")?;
    /// assert_eq!(together.file(&errors).as_deref(), Some(&b""[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn empty_error_file(&self) {
        self.shared.settled().batches.settings.empty_errors = true;
    }

    /// A job as the API shows it; `null` when there is none of this id.
    ///
    /// ```
    /// let together = together_inference::testing::Together::new();
    /// assert_eq!(together.batch_json(&together.add_batch([]))["status"], "VALIDATING");
    /// ```
    #[must_use]
    pub fn batch_json(&self, id: &str) -> Value {
        self.shared.settled().batches.job(id).map_or(Value::Null, Job::to_json)
    }

    /// Breaks the next `count` downloads of files after this many bytes each.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use futures_util::StreamExt;
    /// use together_inference::{client::{Body, Transport}, testing::Together};
    ///
    /// let together = Together::new();
    /// let id = together.add_file("a.jsonl", "0123456789");
    /// together.cut_downloads(1, 4);
    /// let url = format!("/v1/files/{id}/content");
    /// let get = http::Request::get(&url).header("authorization", "Bearer any").body(Body::empty())?;
    /// let chunks: Vec<_> = together.send(get).await?.into_body().collect().await;
    /// assert!(chunks[0].as_ref().is_ok_and(|chunk| chunk == "0123") && chunks[1].is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn cut_downloads(&self, count: u32, bytes: usize) {
        self.shared.lock().store.cuts = (count, bytes);
    }

    /// Lets the storage send the next `count` presigned uploads on with a 307, body and all.
    pub fn redirect_uploads(&self, count: u32) {
        self.shared.lock().store.redirects = count;
    }
}
