//! A position as text that sorts as positions do, for people's own queries: `ORDER BY position_sort`.
//!
//! Numbers are led by their count of digits, pairs are filled up with zeros, text stands as it is; a letter in front
//! keeps the kinds in the order that [`Position`] gives them.

use streambreaker::Position;

/// The sortable form: its order by bytes is the order of positions.
pub(crate) fn sortable(position: &Position) -> String {
    let text = position.to_string();
    if position.as_u64().is_some() || is_number(&text) {
        // the longest position has 1,024 bytes
        return format!("n{:04}:{text}", text.len());
    }
    if let Some((a, b)) = pair(position, &text) {
        return format!("p{a:020}-{b:020}");
    }
    format!("t{text}")
}

fn is_number(text: &str) -> bool {
    !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn pair(position: &Position, text: &str) -> Option<(u64, u64)> {
    let (a, b) = text.split_once('-')?;
    let (a, b) = (a.parse().ok()?, b.parse().ok()?);
    (Position::pair(a, b) == *position).then_some((a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms_are_as_documented() {
        assert_eq!(sortable(&Position::from(42)), "n0002:42");
        assert_eq!(sortable(&Position::pair(17, 9)), "p00000000000000000017-00000000000000000009");
        assert_eq!(sortable(&"007".parse().expect("a position")), "t007");
    }

    proptest! {
        #[test]
        fn it_sorts_as_positions_do(
            a in "[0-9]{1,40}|[0-9]{1,20}-[0-9]{1,20}|[a-z0-9-]{1,12}",
            b in "[0-9]{1,40}|[0-9]{1,20}-[0-9]{1,20}|[a-z0-9-]{1,12}",
        ) {
            let (a, b): (Position, Position) = (a.parse().unwrap(), b.parse().unwrap());
            prop_assert_eq!(sortable(&a).cmp(&sortable(&b)), a.cmp(&b));
        }
    }
}
