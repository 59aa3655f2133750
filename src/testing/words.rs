//! Words of a text, for vectors and rankings that follow meaning as far as shared words do.

use super::random::Random;

/// Endings that say nothing of what a word is about.
const ENDINGS: &[&str] = &["ing", "ies", "es", "ed", "s"];
/// Words that say nothing of what a text is about.
const IDLE: &[&str] = &[
    "a", "an", "and", "are", "at", "by", "do", "does", "for", "in", "is", "it", "of", "on", "or", "that", "the", "to",
    "was", "what", "where", "which", "who", "with",
];

/// The telling words of a text: lower case, without their endings.
pub(super) fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase);
    let all: Vec<String> = words.collect();
    let telling: Vec<String> =
        all.iter().filter(|word| !IDLE.contains(&word.as_str())).map(|word| stem(word)).collect();
    // A text of idle words alone is about those.
    if telling.is_empty() { all } else { telling }
}

fn stem(word: &str) -> String {
    let cut = ENDINGS.iter().find_map(|ending| word.strip_suffix(ending).filter(|rest| rest.len() >= 3));
    cut.unwrap_or(word).to_owned()
}

/// A vector of length one. Texts that share words, or parts of words, point in similar directions.
pub(super) fn vector(text: &str, dimensions: usize) -> Vec<f64> {
    let mut sum = vec![0.0; dimensions];
    for word in words(text) {
        add(&mut sum, &word, 1.0);
        let letters: Vec<char> = word.chars().collect();
        letters.windows(3).for_each(|three| add(&mut sum, &three.iter().collect::<String>(), 0.25));
    }
    if sum.iter().all(|value| *value == 0.0) {
        add(&mut sum, text, 1.0);
    }
    let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
    // Seven digits, as servers of f32 write them.
    sum.iter().map(|value| (value / length * 1e7).round() / 1e7).collect()
}

/// Adds the direction of one feature: a few entries of a sign each, chosen by its hash.
fn add(sum: &mut [f64], feature: &str, weight: f64) {
    let hash = blake3::hash(feature.as_bytes());
    let mut seed = [0; 8];
    seed.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    let mut random = Random::new(u64::from_le_bytes(seed));
    for _ in 0..16 {
        let sign = if random.next() & 1 == 0 { weight } else { -weight };
        if let Some(value) = sum.get_mut(random.below(sum.len())) {
            *value += sign;
        }
    }
}

/// How much of the query's words a document has, 0 to 1, with a little for being short.
pub(super) fn relevance(query: &str, document: &str) -> f64 {
    let (asked, found) = (words(query), words(document));
    let shared = asked.iter().filter(|word| found.contains(word)).count();
    let (shared, asked, found) = (to_f64(shared), to_f64(asked.len().max(1)), to_f64(found.len().max(1)));
    (0.98 * shared / asked + 0.02 * shared / found).clamp(0.0, 1.0)
}

fn to_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn likeness(a: &str, b: &str) -> f64 {
        vector(a, 256).iter().zip(vector(b, 256)).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn near_texts_have_near_vectors() {
        let near = likeness("The cat sat on the mat.", "A cat is sitting on a mat");
        let far = likeness("The cat sat on the mat.", "Interest rates rose in March");
        assert!(near > 0.6 && far < 0.3, "{near} {far}");
        assert!((likeness("x", "x") - 1.0).abs() < 1e-5);
        assert!((likeness("", "") - 1.0).abs() < 1e-5, "nothing has a vector too");
    }

    #[test]
    fn a_document_is_relevant_by_the_words_it_shares() {
        let query = "Where do llamas live?";
        let scores = ["Llamas live in Peru.", "The llama is an animal.", "Bread is made of flour."]
            .map(|text| relevance(query, text));
        assert!(scores[0] > scores[1] && scores[1] > scores[2], "{scores:?}");
    }
}
