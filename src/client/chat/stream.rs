//! A completion in pieces.

use std::{
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use tokio::time::{Instant, Sleep, timeout_at};

use super::{
    ChatCompletion, Delta, Fold,
    chunk::{ChunkParser, Numbering},
};
use crate::{
    client::{
        Error, ErrorKind, RateLimits, TogetherClient,
        call::{Success, late},
        error_body::{ErrorBody, error_in_success},
        sse::{SseError, SseParser},
        transport::Body,
    },
    types::{ModelId, later},
};

/// How long the end of the body is awaited after `[DONE]`, so that its connection can be used again.
const LINGER: Duration = Duration::from_millis(100);

/// How long `[DONE]` or a late chunk of usage is awaited once every answer has ended: not every server sends them.
const SILENCE: Duration = Duration::from_secs(5);

/// The chunks of a completion as they arrive. Nothing is read ahead: a slow reader slows the server down.
///
/// It ends with `None` after a whole answer; a stream that ends before every answer has a finish reason is an
/// [`Interrupted`](ErrorKind::Interrupted) error, never a shorter answer, with `[DONE]` or without. Dropping it closes
/// the connection.
pub struct ChatStream {
    client: TogetherClient,
    body: Body,
    parser: SseParser,
    chunks: ChunkParser,
    /// Chunks that arrived before the stream was handed over: a role, and the first piece.
    ahead: VecDeque<Delta>,
    progress: Progress,
    numbering: Numbering,
    /// Answers that were asked for, and a bit for each that has ended.
    answers: u32,
    ended: u128,
    timer: Pin<Box<Sleep>>,
    /// Since when a data event is awaited: the time that a slow reader takes is no silence of the server, and a comment
    /// is no event. The clock is read only when there is something to wait for.
    waiting_since: Option<Instant>,
    idle: Duration,
    until: Instant,
    model: ModelId,
    request_id: Option<Arc<str>>,
    rate_limits: Option<RateLimits>,
    received: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// No answer has ended yet.
    Open,
    /// Every answer has ended: the end of the body is the end of the stream, and so is [`SILENCE`].
    Finished,
    /// `[DONE]` was seen; waiting for the body's end.
    Done,
    /// Over: the stream yields nothing more.
    Over,
}

impl fmt::Debug for ChatStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatStream")
            .field("model", &self.model)
            .field("received", &self.received)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

/// What a stream is to be.
pub(in crate::client) struct Expected<'a> {
    pub(in crate::client) model: &'a ModelId,
    pub(in crate::client) answers: u32,
    pub(in crate::client) first_token: Option<Instant>,
}

impl ChatStream {
    /// Takes over a response and waits for the first piece of an answer.
    pub(in crate::client) async fn open(
        client: &TogetherClient,
        success: Success,
        expected: Expected<'_>,
        chunks: ChunkParser,
    ) -> Result<Self, Error> {
        let Expected { model, answers, first_token } = expected;
        let (idle, started) = (client.timeouts().idle, Instant::now());
        let (status, request_id, rate_limits) = (success.status, success.request_id(), success.rate_limits());
        let is_json = success
            .headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        if is_json {
            let raw = client.read_json(success).await?;
            return Err(not_a_stream(status, raw).with_request_id(request_id.as_deref()));
        }
        let mut stream = Self {
            client: client.clone(),
            body: success.body,
            parser: SseParser::new(*client.caps()),
            chunks,
            ahead: VecDeque::new(),
            progress: Progress::Open,
            numbering: Numbering::default(),
            answers,
            ended: 0,
            timer: Box::pin(tokio::time::sleep_until(success.until.min(later(started, idle)))),
            waiting_since: None,
            idle,
            until: success.until,
            model: model.clone(),
            request_id,
            rate_limits,
            received: 0,
        };
        let first_by = first_token.unwrap_or(success.until);
        let Ok(first) = timeout_at(first_by, stream.first_piece()).await else {
            return Err(late("no first token", started).with_request_id(stream.request_id.as_deref()));
        };
        first?;
        Ok(stream)
    }

    /// Reads until something of an answer has arrived, keeping what was read.
    async fn first_piece(&mut self) -> Result<(), Error> {
        while let Some(delta) = poll_fn(|cx| self.poll_delta(cx)).await {
            let delta = delta?;
            let begins = delta.has_content() || self.progress != Progress::Open;
            self.ahead.push_back(delta);
            if begins {
                return Ok(());
            }
        }
        if self.ahead.is_empty() {
            return Err(self.fail(ErrorKind::Malformed, "the stream holds no answer"));
        }
        Ok(())
    }

    /// The next chunk, or `None` at the end of a whole answer.
    pub async fn next(&mut self) -> Option<Result<Delta, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Reads to the end and folds everything into the completion that a plain call would have given.
    ///
    /// # Errors
    ///
    /// The first error of the stream.
    pub async fn collect(mut self) -> Result<ChatCompletion, Error> {
        let mut fold = Fold::new(self.model.clone());
        while let Some(delta) = self.next().await {
            fold.push(&delta?);
        }
        Ok(ChatCompletion { request_id: self.request_id, ..fold.into_completion() })
    }

    /// The `x-request-id` of the response.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// The rate limits that the response's headers named.
    #[must_use]
    pub const fn rate_limits(&self) -> Option<RateLimits> {
        self.rate_limits
    }

    /// How many chunks have arrived.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }

    fn fail(&mut self, kind: ErrorKind, message: impl Into<Box<str>>) -> Error {
        self.end(Error::new(kind, message))
    }

    /// Ends the stream with this error; the connection is closed at once.
    fn end(&mut self, error: Error) -> Error {
        self.progress = Progress::Over;
        self.body = Body::empty();
        let error = error.with_model(Some(&self.model)).with_request_id(self.request_id.as_deref());
        self.client.redacted(error)
    }

    fn poll_delta(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delta, Error>>> {
        loop {
            if self.progress == Progress::Over {
                return Poll::Ready(None);
            }
            match self.parser.next_event() {
                Ok(Some(event)) => {
                    let item = match event.name.as_deref() {
                        None => self.read_event(event.data),
                        Some("error") if self.progress != Progress::Done => Some(Err(self.told(event.data))),
                        // Events of another name are not chunks of an answer; the official clients ignore them too.
                        Some(_) => None,
                    };
                    if item.is_some() {
                        return Poll::Ready(item);
                    }
                }
                Ok(None) => match ready!(self.poll_body(cx)) {
                    Ok(true) => {}
                    Ok(false) => return Poll::Ready(None),
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
                Err(bound) => return Poll::Ready(Some(Err(self.fail(ErrorKind::TooLarge, describe(&bound))))),
            }
        }
    }

    /// One event's data: a chunk, the end, or an error.
    fn read_event(&mut self, data: Bytes) -> Option<Result<Delta, Error>> {
        if self.progress == Progress::Done {
            return None;
        }
        self.waiting_since = None;
        if &data[..] == b"[DONE]" {
            return self.done().err().map(Err);
        }
        let mut chunk = (self.chunks)(&data, self.received == 0);
        if let Ok(Some(delta)) = &mut chunk {
            delta.spread_end(self.answers, self.ended);
        }
        match chunk {
            Ok(None) => Some(Err(self.told(data))),
            Ok(Some(delta)) if delta.choices.is_empty() && delta.usage.is_none() => None,
            Ok(Some(delta)) if delta.broke_off() => {
                let error = Error::new(ErrorKind::Server, "the model stopped with an error").with_body(data);
                Some(Err(self.end(error.with_status(200))))
            }
            Ok(Some(mut delta)) => {
                self.received += 1;
                self.numbering.number(&mut delta);
                self.note_ends(&delta);
                Some(Ok(delta))
            }
            Err(error) => {
                let inside = error_in_success(&data).map(|body| Error::inside_success(200, body, data.clone()));
                let error = inside.unwrap_or_else(|| Error::of_json(&error, data).with_status(200));
                Some(Err(self.end(error)))
            }
        }
    }

    /// The end mark. It ends no answer that has not said why it ended: a gateway in front writes it after a cut, too.
    fn done(&mut self) -> Result<(), Error> {
        if self.progress == Progress::Open && self.received > 0 {
            let message = format!("the stream was closed before its answer ended, after {} chunks", self.received);
            return Err(self.fail(ErrorKind::Interrupted, message));
        }
        self.progress = Progress::Done;
        self.timer.as_mut().reset(self.until.min(Instant::now() + LINGER));
        Ok(())
    }

    /// Ends the stream with the error that the server tells in its middle.
    fn told(&mut self, data: Bytes) -> Error {
        self.end(Error::inside_success(200, ErrorBody::parse(&data), data))
    }

    fn note_ends(&mut self, delta: &Delta) {
        for choice in delta.choices.iter().filter(|choice| choice.finish_reason.is_some()) {
            self.ended |= 1_u128.checked_shl(choice.index).unwrap_or(0);
        }
        if self.ended.count_ones() >= self.answers && self.progress == Progress::Open {
            self.progress = Progress::Finished;
            self.timer.as_mut().reset(self.until.min(Instant::now() + SILENCE));
        }
    }

    /// Feeds the parser. `Ok(false)` is the end of a whole answer.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        match Pin::new(&mut self.body).poll_next(cx) {
            Poll::Ready(Some(Ok(chunk))) => {
                self.parser.feed(chunk);
                Poll::Ready(Ok(true))
            }
            Poll::Ready(None) if self.progress != Progress::Open => {
                self.progress = Progress::Over;
                Poll::Ready(Ok(false))
            }
            Poll::Ready(_) if self.progress == Progress::Done => {
                self.progress = Progress::Over;
                Poll::Ready(Ok(false))
            }
            Poll::Ready(None) => {
                let received = self.received;
                let message = format!("the stream ended before its answer did, after {received} chunks");
                Poll::Ready(Err(self.fail(ErrorKind::Interrupted, message)))
            }
            Poll::Ready(Some(Err(error))) => {
                let message = format!("the stream broke after {} chunks: {error}", self.received);
                Poll::Ready(Err(self.fail(ErrorKind::Interrupted, message)))
            }
            Poll::Pending => self.poll_timer(cx),
        }
    }

    /// Ends the stream in order, although its body goes on.
    fn close(&mut self) -> bool {
        self.progress = Progress::Over;
        self.body = Body::empty();
        false
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.progress == Progress::Done {
                return Poll::Ready(Ok(self.close()));
            }
            // The timer may have been set for an earlier wait: it is moved only when it fires.
            let finished = self.progress == Progress::Finished;
            let due = self.until.min(later(since, if finished { self.idle.min(SILENCE) } else { self.idle }));
            if due <= Instant::now() {
                if finished {
                    return Poll::Ready(Ok(self.close()));
                }
                let what = if due < self.until { "no data event came" } else { "the stream is not complete" };
                let error = late(what, since);
                return Poll::Ready(Err(self.end(error)));
            }
            self.timer.as_mut().reset(due);
        }
    }
}

impl Stream for ChatStream {
    type Item = Result<Delta, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.ahead.pop_front() {
            Some(delta) => Poll::Ready(Some(Ok(delta))),
            None => self.poll_delta(cx),
        }
    }
}

fn describe(bound: &SseError) -> String {
    format!("the stream breaks a bound: {bound}")
}

/// JSON where a stream was asked for: an error inside a 200, or a server that does not stream.
fn not_a_stream(status: u16, raw: Bytes) -> Error {
    match error_in_success(&raw) {
        Some(body) => Error::inside_success(status, body, raw),
        None => Error::new(ErrorKind::Malformed, "the server answered JSON instead of a stream")
            .with_body(raw)
            .with_status(status),
    }
}
