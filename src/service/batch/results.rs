//! The rows of a batch, as they arrive or in the order in which they were given.

use std::{collections::VecDeque, io, pin::Pin, sync::Arc};

use super::{Batches, no_batch, of_store, row, submit::of_spool, ticket::LOOK};
use crate::{
    batch::{BatchAnswer, BatchId, BatchRow, LineError, LineErrorKind, LineRow, LineSource, LineState, Place},
    service::{Error, InferenceService, state::State},
    types::{Cost, ModelId, Usd},
};

/// Rows that are read together.
const PAGE: usize = 256;

/// The rows of a batch, each once: [`BatchTicket::results`](super::BatchTicket::results). Waits where the next one is not
/// there yet.
#[derive(Debug)]
#[must_use = "nothing is read before next"]
pub struct BatchRows {
    service: InferenceService,
    id: BatchId,
    in_order: bool,
    /// The last that was read: its index plus one, or its place among those that arrived.
    at: u64,
    page: VecDeque<BatchRow>,
}

impl BatchRows {
    pub(super) const fn new(service: InferenceService, id: BatchId, in_order: bool) -> Self {
        Self { service, id, in_order, at: 0, page: VecDeque::new() }
    }

    /// The next row; `None` after the last one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`](crate::service::ErrorKind::Store) where it cannot be read,
    /// [`ErrorKind::NoWorker`](crate::service::ErrorKind::NoWorker) where nobody works on the batch,
    /// [`ErrorKind::NoBatch`](crate::service::ErrorKind::NoBatch) where it was discarded.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no row.
    pub async fn next(&mut self) -> Result<Option<BatchRow>, Error> {
        loop {
            if let Some(row) = self.page.pop_front() {
                return Ok(Some(row));
            }
            let state = Arc::clone(&self.service.state);
            let batches = state.batches()?;
            // Before it is looked: what ends in between wakes us.
            let moved = batches.moved.subscribe();
            let batch = batches.journal.find(self.id).await.map_err(of_store)?;
            let batch = batch.ok_or_else(|| no_batch(&self.id.to_string()))?;
            self.read(&state, batches).await?;
            if self.page.is_empty() {
                if batch.finished.is_some() {
                    return Ok(None);
                }
                state.wait_for_batch(batches, moved, LOOK).await?;
            }
        }
    }

    /// The rows as a stream.
    #[must_use]
    pub fn into_stream(self) -> Pin<Box<dyn futures_core::Stream<Item = Result<BatchRow, Error>> + Send>> {
        Box::pin(futures_util::stream::unfold(Some(self), |rows| async {
            let mut rows = rows?;
            match rows.next().await {
                Ok(row) => row.map(|row| (Ok(row), Some(rows))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    async fn read(&mut self, state: &Arc<State>, batches: &Batches) -> Result<(), Error> {
        let journal = &batches.journal;
        let lines = if self.in_order {
            let lines = journal.lines(self.id, self.at, PAGE).await.map_err(of_store)?;
            // A gap waits.
            lines.into_iter().take_while(|line| line.state != LineState::Waiting).collect()
        } else {
            journal.arrived(self.id, self.at, PAGE).await.map_err(of_store)?
        };
        let Some(last) = lines.last() else { return Ok(()) };
        let at = if self.in_order { last.index + 1 } else { last.arrived.unwrap_or(self.at) };
        (self.page, self.at) = (state.rows_of(self.id, lines).await?.into(), at);
        Ok(())
    }
}

/// A line whose answer was to be a value of a type.
#[cfg(feature = "schema")]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TypedRow<T> {
    /// Which, from 0.
    pub index: u64,
    /// The id that it was given.
    pub id: Option<Box<str>>,
    /// The value, or why there is none.
    pub result: Result<T, LineError>,
}

/// The rows of a batch as values of a type: [`BatchTicket::results_as`](super::BatchTicket::results_as).
#[cfg(feature = "schema")]
#[derive(Debug)]
#[must_use = "nothing is read before next"]
pub struct TypedRows<T> {
    rows: BatchRows,
    start: crate::inference::Start,
    value: std::marker::PhantomData<fn() -> T>,
}

#[cfg(feature = "schema")]
impl<T: schemars::JsonSchema + serde::de::DeserializeOwned> TypedRows<T> {
    pub(super) fn new(rows: BatchRows) -> Self {
        let start = crate::inference::start_of(&crate::client::JsonSchema::of::<T>().schema);
        Self { rows, start, value: std::marker::PhantomData }
    }

    /// The next row; `None` after the last one. Broken JSON is mended where that is certain.
    ///
    /// # Errors
    ///
    /// As [`BatchRows::next`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no row.
    pub async fn next(&mut self) -> Result<Option<TypedRow<T>>, Error> {
        let Some(BatchRow { index, id, result }) = self.rows.next().await? else { return Ok(None) };
        let result = result.and_then(|answer| {
            let was_cut = answer.finish() == Some(&crate::types::FinishReason::Length);
            match crate::inference::parse_value(answer.text(), self.start) {
                Ok(parsed) if !(parsed.mended && was_cut) => Ok(parsed.value),
                _ => Err(LineError::new(LineErrorKind::Unreadable, "", "the answer is no value of the type")),
            }
        });
        Ok(Some(TypedRow { index, id, result }))
    }
}

impl State {
    /// Rows with what the spool has of them, read where that holds up nobody.
    pub(super) async fn rows_of(self: &Arc<Self>, batch: BatchId, lines: Vec<LineRow>) -> Result<Vec<BatchRow>, Error> {
        let state = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || {
            let batches = state.batches()?;
            lines.into_iter().map(|line| batches.row_of(batch, line)).collect()
        });
        reading.await.map_err(|error| of_spool(io::Error::other(error)))?
    }
}

impl Batches {
    /// A row with what the spool has of it.
    fn row_of(&self, batch: BatchId, line: LineRow) -> Result<BatchRow, Error> {
        let source = match (line.duplicate_of, line.cached, line.singly) {
            (Some(_), ..) => LineSource::Duplicate,
            (None, true, _) => LineSource::Cache,
            (None, false, true) => LineSource::Realtime,
            _ => LineSource::Job,
        };
        let cost = match (source, line.cost) {
            (LineSource::Duplicate | LineSource::Cache, _) => Cost::Known(Usd::ZERO),
            (_, Some(nanos)) => Cost::Known(Usd::from_nanos(nanos)),
            (_, None) => Cost::Unpriced,
        };
        let kept = match &line.answer {
            Some(place) => self.kept(batch, place)?,
            None => None,
        };
        let result = match (line.state, kept) {
            (LineState::Done, Some(row::Kept::Answer(answer))) => {
                let mut answer = *answer;
                if line.usage != crate::types::Usage::ZERO {
                    answer.usage = line.usage;
                }
                Ok(BatchAnswer { answer: Arc::new(answer), cost, source })
            }
            (LineState::Cancelled, _) => {
                Err(LineError::new(LineErrorKind::Cancelled, "", "the batch was cancelled before it was answered"))
            }
            (_, Some(row::Kept::Error(error))) => Err(error),
            (LineState::Done, _) => {
                Err(LineError::new(LineErrorKind::Unreadable, "", "its answer is damaged on the disk"))
            }
            _ => {
                let (kind, code, message) = line.failure.clone().unwrap_or_default();
                let message = if message.is_empty() { "no more is known".into() } else { message };
                Err(LineError::new(LineErrorKind::of(&kind), code, message))
            }
        };
        Ok(BatchRow { index: line.index, id: line.user_id, result })
    }

    /// What the spool has at a place; `None` where that is cut off or damaged: other rows are not.
    fn kept(&self, batch: BatchId, place: &Place) -> Result<Option<row::Kept>, Error> {
        let read = self.journal.read_answer(batch, place).and_then(|bytes| row::read(&bytes, &ModelId::from("")));
        match read {
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                tracing::error!(%batch, file = &*place.file, %error, "a row of a batch is damaged on the disk");
                Ok(None)
            }
            read => read.map(Some).map_err(of_spool),
        }
    }
}
