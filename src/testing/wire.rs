//! What a network does to a request or to its reply.

use std::time::Duration;

use super::{pattern::fits, together::Together};

/// What befalls one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mishap {
    /// The request does not arrive.
    LostRequest,
    /// The connection breaks; the server has the request all the same, this much later, and acts.
    LateRequest(Duration),
    /// The server acts; its reply does not arrive.
    LostReply,
    /// The server acts; its reply takes this long.
    LateReply(Duration),
}

/// The mishaps to come, in the order they were planned.
#[derive(Debug, Default)]
pub(super) struct Wire(Vec<Planned>);

#[derive(Debug)]
struct Planned {
    at: String,
    left: u32,
    mishap: Mishap,
}

impl Wire {
    fn plan(&mut self, at: &str, left: u32, mishap: Mishap) {
        self.0.push(Planned { at: at.to_owned(), left, mishap });
    }

    /// What befalls this request (`POST /v1/batches`).
    pub(super) fn take(&mut self, request: &str) -> Option<Mishap> {
        let planned = self.0.iter_mut().find(|planned| planned.left > 0 && fits(&planned.at, request))?;
        planned.left -= 1;
        let mishap = planned.mishap;
        self.0.retain(|planned| planned.left > 0);
        Some(mishap)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// # What the network does
///
/// A place is a method and a path, where `*` stands for one segment: `POST /v1/batches`, `GET /v1/files/*/content`,
/// `PUT /storage/*` for presigned uploads. The method may be left out.
impl Together {
    /// Loses the next `count` requests to this place: the connection breaks, the simulator neither acts nor counts
    /// them.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{Body, Transport}, testing::Together};
    ///
    /// let together = Together::new();
    /// together.lose_request("GET /v1/batches", 1);
    /// let list = || http::Request::get("/v1/batches").header("authorization", "Bearer any").body(Body::empty());
    /// assert!(together.send(list()?).await.is_err());
    /// assert_eq!(together.send(list()?).await?.status(), 200);
    /// assert_eq!(together.asked("GET /v1/batches"), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn lose_request(&self, place: &str, count: u32) {
        self.shared.lock().wire.plan(place, count, Mishap::LostRequest);
    }

    /// Breaks the connections of the next `count` requests to this place, which arrive all the same, this much later.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use together_inference::{client::{Body, Transport}, testing::Together};
    ///
    /// let together = Together::new();
    /// together.late_request("POST /v1/batches", 1, Duration::from_secs(60));
    /// let job = r#"{"endpoint":"/v1/chat/completions","input_file_id":"file-1"}"#;
    /// let create = http::Request::post("/v1/batches").header("authorization", "Bearer any").body(Body::from(job))?;
    /// assert!(together.send(create).await.is_err());
    /// assert_eq!(together.batches().len(), 0, "it is on its way");
    /// tokio::time::sleep(Duration::from_secs(61)).await;
    /// assert_eq!(together.batches().len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn late_request(&self, place: &str, count: u32, late: Duration) {
        self.shared.lock().wire.plan(place, count, Mishap::LateRequest(late));
    }

    /// Loses the replies to the next `count` requests to this place: the simulator acts, its caller sees a broken
    /// connection.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{Body, Transport}, testing::Together};
    ///
    /// let together = Together::new();
    /// together.lose_reply("POST /v1/batches", 1);
    /// let job = r#"{"endpoint":"/v1/chat/completions","input_file_id":"file-1"}"#;
    /// let create = http::Request::post("/v1/batches").header("authorization", "Bearer any").body(Body::from(job))?;
    /// assert!(together.send(create).await.is_err());
    /// assert_eq!(together.batches().len(), 1, "the job was created all the same");
    /// # Ok(())
    /// # }
    /// ```
    pub fn lose_reply(&self, place: &str, count: u32) {
        self.shared.lock().wire.plan(place, count, Mishap::LostReply);
    }

    /// Holds the replies to the next `count` requests to this place back for so long; the simulator acts at once.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use together_inference::{client::{Body, Transport}, testing::Together};
    ///
    /// let together = Together::new();
    /// together.late_reply("GET /v1/files", 1, Duration::from_secs(60));
    /// let list = http::Request::get("/v1/files").header("authorization", "Bearer any").body(Body::empty())?;
    /// let start = tokio::time::Instant::now();
    /// together.send(list).await?;
    /// assert!(start.elapsed() >= Duration::from_secs(60));
    /// # Ok(())
    /// # }
    /// ```
    pub fn late_reply(&self, place: &str, count: u32, late: Duration) {
        self.shared.lock().wire.plan(place, count, Mishap::LateReply(late));
    }

    /// How many requests arrived at this place since the start (or [`forget`](Self::forget)), failed ones included.
    /// Ids of files and jobs are counted together, as `*`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{Body, Transport}, testing::Together};
    ///
    /// let together = Together::new();
    /// let one = http::Request::get("/v1/batches/some-id").header("authorization", "Bearer any").body(Body::empty())?;
    /// assert_eq!(together.send(one).await?.status(), 404);
    /// assert_eq!((together.asked("GET /v1/batches/*"), together.asked("GET /v1/batches")), (1, 0));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn asked(&self, place: &str) -> u64 {
        self.shared.lock().log.asked(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mishap_strikes_where_and_as_often_as_planned() {
        let mut wire = Wire::default();
        wire.plan("POST /v1/batches", 2, Mishap::LostReply);
        wire.plan("/v1/batches", 1, Mishap::LostRequest);
        assert_eq!(wire.take("GET /v1/files"), None);
        assert_eq!(wire.take("GET /v1/batches"), Some(Mishap::LostRequest));
        assert_eq!(wire.take("POST /v1/batches"), Some(Mishap::LostReply));
        assert_eq!(wire.take("POST /v1/batches"), Some(Mishap::LostReply));
        assert_eq!(wire.take("POST /v1/batches"), None);
        assert!(wire.0.is_empty());
    }
}
