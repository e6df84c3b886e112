//! Which entries fit a query, and how well.

use super::entry::Entry;

/// The best first; among equals by id.
pub(super) fn ranked<'a>(entries: impl Iterator<Item = &'a Entry>, query: &str) -> Vec<&'a Entry> {
    let words: Vec<String> = words(query).collect();
    if words.is_empty() {
        return Vec::new();
    }
    let mut found: Vec<(u32, &Entry)> = entries
        .filter_map(|entry| {
            let scores: Option<Vec<u32>> = words.iter().map(|word| score(entry, word)).collect();
            scores.map(|s| (s.iter().sum(), entry))
        })
        .collect();
    found.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.id.cmp(&y.id)));
    found.into_iter().map(|(_, entry)| entry).collect()
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        // More than anybody types; keeps a long query cheap.
        .take(16)
        .map(|w| w.chars().take(40).collect::<String>().to_lowercase())
}

/// Names weigh more than tags, tags more than the description; the whole word more than its beginning, that more than a part, that more than a typo.
fn score(entry: &Entry, word: &str) -> Option<u32> {
    let names = [entry.id.as_str(), entry.name.as_str()];
    let name = names.iter().flat_map(|n| quality(n, word)).max().map(|q| 300 + q);
    let tag = entry.tags.iter().flat_map(|t| quality(t, word)).max().map(|q| 200 + q);
    let category = quality(&entry.category, word).map(|q| 200 + q);
    let description = quality(&entry.description, word).map(|q| 100 + q);
    [name, tag, category, description].into_iter().flatten().max()
}

fn quality(text: &str, word: &str) -> Option<u32> {
    let lower = text.to_lowercase();
    if lower == word {
        return Some(90);
    }
    let mut best = lower.contains(word).then_some(30);
    for part in lower.split(|c: char| !c.is_alphanumeric()).filter(|p| !p.is_empty()) {
        let q = if part == word {
            Some(80)
        } else if part.starts_with(word) {
            Some(60)
        } else {
            typo(part, word)
        };
        best = best.max(q);
    }
    best
}

/// One slip in a word of four to seven letters, two in a longer one; a swap of neighbours is one slip. Also against the beginning of a longer word, so that
/// a query under way is forgiven too.
fn typo(part: &str, word: &str) -> Option<u32> {
    let length = word.chars().count();
    let allowed = match length {
        0..=3 => return None,
        4..=7 => 1,
        _ => 2,
    };
    let beginning: String = part.chars().take(length).collect();
    let distance = strsim::damerau_levenshtein(part, word).min(strsim::damerau_levenshtein(&beginning, word));
    (distance <= allowed).then_some(if distance <= 1 { 20 } else { 10 })
}
