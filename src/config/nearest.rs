//! How near two names are, to say "did you mean" about a mistyped setting.

/// Of `names`, the one nearest to `wanted`, if it is near enough to be a slip of the fingers.
pub(super) fn nearest<'n>(wanted: &str, names: impl Iterator<Item = &'n str>, at_most: usize) -> Option<&'n str> {
    let near = names.map(|name| (distance(wanted, name), name)).filter(|(distance, _)| *distance <= at_most);
    near.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// How many slips (a letter wrong, missing, too many, or swapped with its neighbour) lie between two names.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let differs = usize::from(one[i - 1] != other[j - 1]);
            let mut best = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + differs);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_fingers_are_counted() {
        for (one, other, slips) in [
            ("port", "port", 0),
            ("prot", "port", 1),
            ("save_intervall", "save_interval", 1),
            ("max_backup", "max_backups", 1),
            ("timout", "timeout", 1),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), slips, "{one} {other}");
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        let names = ["port", "http_port", "timeout"];
        assert_eq!(nearest("htp_port", names.into_iter(), 2), Some("http_port"));
        assert_eq!(nearest("colour", names.into_iter(), 2), None);
    }
}
