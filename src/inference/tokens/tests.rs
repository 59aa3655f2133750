use serde::Deserialize;

use super::*;

/// A text with what real tokenizers make of it: `tests/data/README.md` says which and from where.
#[derive(Deserialize)]
struct Known {
    kind: String,
    text: String,
    tokens: std::collections::BTreeMap<String, u32>,
}

fn known() -> Vec<Known> {
    serde_json::from_str(include_str!("../../../tests/data/tokens.json")).unwrap()
}

/// The error of a count against each tokenizer's own, for the texts of a kind.
fn errors(kind: &str, count: impl Fn(&str) -> u64) -> Vec<f64> {
    let texts = known().into_iter().filter(|known| known.kind == kind);
    let of = |known: Known| {
        let counted = f64::from(u32::try_from(count(&known.text)).unwrap());
        known.tokens.into_values().map(move |tokens| (counted / f64::from(tokens) - 1.0).abs()).collect::<Vec<_>>()
    };
    texts.flat_map(of).collect()
}

fn mean(errors: &[f64]) -> f64 {
    errors.iter().sum::<f64>() / f64::from(u32::try_from(errors.len()).unwrap())
}

#[test]
fn the_count_is_as_close_to_real_tokenizers_as_is_said() {
    for (kind, said, most) in [("english", 0.05, 0.12), ("code", 0.07, 0.14), ("chinese", 0.15, 0.38)] {
        let errors = errors(kind, count_tokens);
        assert!(errors.len() >= 24, "{kind}");
        assert!(mean(&errors) <= said, "{kind}: {} on average", mean(&errors));
        let worst = errors.iter().copied().fold(0.0, f64::max);
        assert!(worst <= most, "{kind}: {worst} at worst");
    }
}

#[test]
fn it_is_closer_than_a_quarter_of_the_bytes() {
    for kind in ["english", "code", "chinese"] {
        let by_bytes = mean(&errors(kind, |text| (text.len() as u64).div_ceil(4)));
        assert!(mean(&errors(kind, count_tokens)) < 0.85 * by_bytes, "{kind}: {by_bytes} by bytes");
    }
}

#[test]
fn a_text_in_pieces_counts_as_the_whole_and_never_more_than_its_bytes() {
    let odd = [
        "🦀 crabs",
        "안녕하세요",
        "Привет, мир",
        "\u{800}\u{ffff}",
        "\t\t  \r\n\n",
        "ABCdefGHI",
        "",
        "a1b2c3",
        "1a1a1a1a1a",
        "{}[]();",
    ];
    for text in known().iter().map(|known| &*known.text).chain(odd) {
        let mut tally = TokenTally::default();
        for char in text.chars() {
            tally.push(char.encode_utf8(&mut [0; 4]));
        }
        assert_eq!(tally.tokens(), count_tokens(text));
        assert!(count_tokens(text) <= text.len() as u64, "{text}");
    }
}
