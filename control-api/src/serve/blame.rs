//! What of a response a refusal is about: clients say it in words.

use std::sync::Arc;

/// Whether each of these names is refused: those that the refusal names; all of them when it names none.
pub(crate) fn blamed<'a>(detail: &str, names: impl Iterator<Item = &'a Arc<str>>) -> Vec<bool> {
    let mut named: Vec<bool> = names.map(|name| mentions(detail, name)).collect();
    if !named.contains(&true) {
        named.fill(true);
    }
    named
}

/// Whether a refusal has this name in it, as a word and not as a part of another name.
fn mentions(detail: &str, name: &str) -> bool {
    let of_a_name = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_' | '/' | '.');
    detail.match_indices(name).any(|(at, found)| {
        let before = detail.get(..at).and_then(|text| text.chars().next_back());
        let mut after = detail.get(at + found.len()..).unwrap_or_default().chars();
        let (next, then) = (after.next(), after.next());
        // "a." ends a sentence, "a.b" is another name.
        let ends = match next {
            Some('.') => then.is_none_or(|letter| !of_a_name(letter)),
            Some(letter) => !of_a_name(letter),
            None => true,
        };
        !before.is_some_and(of_a_name) && ends
    })
}

#[cfg(test)]
mod tests {
    use super::mentions;

    #[test]
    fn a_name_is_a_word() {
        let refusal = "Error adding/updating cluster(s) shop/cart: no such type; api.v2";
        for (name, there) in
            [("shop/cart", true), ("cart", false), ("shop", false), ("api", false), ("api.v2", true)]
        {
            assert_eq!(mentions(refusal, name), there, "{name}");
        }
        assert!(mentions("a: lb_policy: no", "a") && mentions("bad resource a.", "a"));
    }
}
