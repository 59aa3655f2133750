//! The ledger as a file: a line a record.

use std::{io, ops::Range, time::SystemTime};

use serde::Serialize;

use super::{Ledger, row::Row, source::Order, zone::micros_of};
use crate::{
    cost::CostRecord,
    store::{StoreError, StoreErrorKind},
    types::{AttemptId, Cost, Rate, RequestId, RouteId, Usd, rfc3339},
};

/// How records are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Comma-separated values with a line of names, quoted as RFC 4180 says.
    Csv,
    /// An object of JSON a line.
    JsonLines,
}

/// A record as it is written down. Amounts are dollars with nine decimals, so that nothing is rounded.
#[derive(Debug, Serialize)]
struct Line<'a> {
    at: String,
    attempt: String,
    request: String,
    tenant: Option<&'a str>,
    session: Option<&'a str>,
    tags: Option<&'a str>,
    task: &'a str,
    priority: &'a str,
    upstream: &'a str,
    asked: &'a str,
    model: &'a str,
    prompt_tokens: i64,
    cached_tokens: i64,
    completion_tokens: i64,
    reasoning_tokens: i64,
    images: i64,
    pixels: i64,
    seconds: i64,
    usage_source: &'a str,
    cost_usd: Option<String>,
    cost: &'static str,
    saved_usd: Option<String>,
    price_version: Option<i64>,
    input_usd_per_million: Option<String>,
    cached_input_usd_per_million: Option<String>,
    output_usd_per_million: Option<String>,
    image_usd: Option<String>,
    megapixel_usd: Option<String>,
    audio_minute_usd: Option<String>,
    hour_usd: Option<String>,
    source: &'a str,
    ending: &'a str,
    error: Option<&'a str>,
    latency_ms: u64,
    first_token_ms: Option<u64>,
    batch: Option<&'a str>,
    arm: Option<&'a str>,
    trace_id: Option<String>,
}

impl Ledger {
    /// Writes every record of that time that has ended, oldest first, and tells how many. Only one record is in memory at
    /// a time. Dropping the future does not stop the writing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the store cannot be read or the writer fails.
    pub async fn export(
        &self,
        range: Range<SystemTime>,
        format: Format,
        to: impl io::Write + Send + 'static,
    ) -> Result<u64, StoreError> {
        let range = (micros_of(range.start), micros_of(range.end));
        self.books
            .read(move |source| {
                let failed = |error| StoreError::caused(StoreErrorKind::Other, source.name(), error);
                let (mut writer, mut count) = (Writer::new(format, to), 0);
                source.each(Order::Oldest, range, &mut |record| {
                    count += 1;
                    writer.write(&record).map_err(failed)
                })?;
                if count == 0 {
                    writer.write_names().map_err(failed)?;
                }
                writer.end().map_err(failed).map(|()| count)
            })
            .await
    }
}

enum Writer<W: io::Write> {
    Csv(Box<csv::Writer<W>>),
    JsonLines(io::BufWriter<W>),
}

impl<W: io::Write> Writer<W> {
    fn new(format: Format, to: W) -> Self {
        match format {
            Format::Csv => Self::Csv(Box::new(csv::Writer::from_writer(to))),
            Format::JsonLines => Self::JsonLines(io::BufWriter::new(to)),
        }
    }

    fn write(&mut self, record: &CostRecord) -> io::Result<()> {
        let row = Row::of(record);
        let line = line(record, &row);
        match self {
            Self::Csv(writer) => writer.serialize(line).map_err(io::Error::other)?,
            Self::JsonLines(writer) => {
                serde_json::to_writer(&mut *writer, &line).map_err(io::Error::other)?;
                io::Write::write_all(writer, b"\n")?;
            }
        }
        Ok(())
    }

    /// The line of names where there is no record to take them from.
    fn write_names(&mut self) -> io::Result<()> {
        let Self::Csv(writer) = self else { return Ok(()) };
        let mut lines = csv::Writer::from_writer(Vec::new());
        let record =
            CostRecord::new(AttemptId::new(0), RequestId::new(0), RouteId::new("", ""), SystemTime::UNIX_EPOCH);
        lines.serialize(line(&record, &Row::of(&record))).map_err(io::Error::other)?;
        let lines = lines.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
        let names = csv::Reader::from_reader(&*lines).headers().map_err(io::Error::other)?.clone();
        writer.write_record(&names).map_err(io::Error::other)
    }

    fn end(&mut self) -> io::Result<()> {
        match self {
            Self::Csv(writer) => writer.flush()?,
            Self::JsonLines(writer) => io::Write::flush(writer)?,
        }
        Ok(())
    }
}

fn line<'a>(record: &'a CostRecord, row: &'a Row<'a>) -> Line<'a> {
    let [prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, images, pixels, seconds] = row.usage;
    let price = row.price;
    let cached = price.map(|price| price.cached_input.unwrap_or(price.input));
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Line {
        at: rfc3339(record.at),
        attempt: record.attempt.to_string(),
        request: record.request.to_string(),
        tenant: row.tenant.as_deref(),
        session: row.session.as_deref(),
        tags: row.tags.as_deref(),
        task: &row.task,
        priority: &row.priority,
        upstream: &row.upstream,
        asked: &row.model,
        model: record.model().as_str(),
        prompt_tokens,
        cached_tokens,
        completion_tokens,
        reasoning_tokens,
        images,
        pixels,
        seconds,
        usage_source: &row.usage_source,
        cost_usd: dollars(record.cost),
        cost: match record.cost {
            Cost::Known(_) => "known",
            Cost::Unknown { .. } => "at most",
            Cost::Unpriced => "unpriced",
        },
        saved_usd: dollars(record.saved),
        price_version: row.price_version,
        input_usd_per_million: price.map(|price| per_million(price.input)),
        cached_input_usd_per_million: cached.map(per_million),
        output_usd_per_million: price.map(|price| per_million(price.output)),
        image_usd: price.map(|price| amount(price.image)),
        megapixel_usd: price.map(|price| per_million(price.pixel)),
        audio_minute_usd: price.map(|price| amount(price.audio_minute)),
        hour_usd: price.map(|price| amount(price.hour)),
        source: &row.source,
        ending: &row.ending,
        error: row.error.as_deref(),
        latency_ms: millis(record.latency),
        first_token_ms: record.first_token.map(millis),
        batch: row.batch.as_deref(),
        arm: row.arm.as_deref(),
        trace_id: record.trace_id.map(|trace| trace.to_string()),
    }
}

fn amount(usd: Usd) -> String {
    let (sign, nanos) = (if usd.nanos() < 0 { "-" } else { "" }, usd.nanos().unsigned_abs());
    format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// `0.150000`: a pico-dollar per token is a millionth of a dollar per million tokens.
fn per_million(rate: Rate) -> String {
    format!("{}.{:06}", rate.picos() / 1_000_000, rate.picos() % 1_000_000)
}

/// `0.000213000`; nothing where there is no price.
fn dollars(cost: Cost) -> Option<String> {
    match cost {
        Cost::Known(usd) | Cost::Unknown { at_most: usd } => Some(amount(usd)),
        Cost::Unpriced => None,
    }
}
