//! The most tokens that what is no text can take: what a budget sets aside for it.
//!
//! Providers do not say how they count pictures, and models differ. The bounds are those of the families in use: none
//! makes more of a picture than 16,384 tokens, tiles and thumbnails included, and those that go by its size make a token
//! of 28 × 28 pixels.

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::client::Part;

/// The most of any picture: what is counted where its size cannot be read.
const IMAGE: u64 = 16_384;
/// The most that models make of a small picture, which they enlarge or cut into tiles.
const SMALL_IMAGE: u64 = 4_096;
/// The side of the square that becomes a token.
const PATCH: usize = 28;
/// How much of a picture is looked at for its size: a photograph's thumbnail may stand before it.
const LOOKED_AT: usize = 256 << 10;
/// A film of some minutes: models take a frame or two a second and shrink them.
const VIDEO: u64 = 131_072;
/// An hour of sound at 25 tokens a second.
const AUDIO: u64 = 90_000;
/// Bytes of sound that make a token at least: 8,000 a second, the least that speech is recorded with, at 25 tokens.
const AUDIO_BYTES: usize = 320;

/// The most tokens that a part can take, text aside.
pub(super) fn tokens_at_most(part: &Part) -> u64 {
    match part {
        Part::Text(_) => 0,
        Part::ImageUrl(url) => size_of_data(url).map_or(IMAGE, of_size),
        Part::VideoUrl(_) => VIDEO,
        Part::AudioUrl(_) => AUDIO,
        Part::InputAudio { data, .. } => (data.len() / AUDIO_BYTES + 1) as u64,
        Part::Other(_) => IMAGE,
    }
}

fn of_size((width, height): (usize, usize)) -> u64 {
    let patches = width.div_ceil(PATCH).saturating_mul(height.div_ceil(PATCH));
    (patches as u64).clamp(SMALL_IMAGE, IMAGE)
}

/// Width and height of a picture in a `data:` URL.
fn size_of_data(url: &str) -> Option<(usize, usize)> {
    let (_, data) = url.strip_prefix("data:image/")?.split_once(";base64,")?;
    // Four letters are three bytes: only whole groups can be read.
    let head = data.get(..data.len().min(LOOKED_AT) / 4 * 4)?;
    let bytes = BASE64_STANDARD.decode(head).ok()?;
    let size = imagesize::blob_size(&bytes).ok()?;
    Some((size.width, size.height))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of a PNG of this size.
    fn png(width: u32, height: u32) -> Part {
        let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        file.extend(width.to_be_bytes());
        file.extend(height.to_be_bytes());
        file.extend([8, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        Part::image(&file, "image/png")
    }

    #[test]
    fn a_picture_counts_by_its_size_within_bounds() {
        assert_eq!(tokens_at_most(&png(64, 64)), SMALL_IMAGE);
        assert_eq!(tokens_at_most(&png(2_800, 2_000)), 100 * 72);
        assert_eq!(tokens_at_most(&png(u32::MAX, u32::MAX)), IMAGE);
        for unknown in ["https://acme.example/a.png", "data:image/png;base64,%%%%", "data:image/png;base64,", "data:,"]
        {
            assert_eq!(tokens_at_most(&Part::ImageUrl(unknown.into())), IMAGE, "{unknown}");
        }
        assert_eq!(tokens_at_most(&Part::Text("x".repeat(100))), 0, "text is counted elsewhere");
        assert_eq!(tokens_at_most(&Part::wav(&vec![0; 24_000])), 101);
    }
}
