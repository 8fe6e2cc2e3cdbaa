//! The loss test's operations: a seeded mixture, every one with a mark that says who sent it as which number.

use super::replica::Content;
use super::wire::Outgoing;
use crate::bench::chance::Chance;
use crate::bench::messages::Dialect;
use serde_json::{Map, Value, json};

/// Bytes of a large operation.
const LARGE_BYTES: usize = 5 << 20;
/// Nodes that large operations go to.
const LARGE_NODES: u64 = 4;

/// One operation, or several for a batch. A large one is about 5 MiB.
pub(super) fn operation(chance: &mut Chance, dialect: Dialect, nodes: u64, mark: &str, large: bool) -> Vec<Outgoing> {
    if large {
        return vec![large_put(chance, dialect, mark)];
    }
    let id = format!("n{}", chance.below(nodes));
    // Sizes are log-normal: the median is 1 KB.
    let pad = "x".repeat(chance.log_normal(6.9, 0.7).min(20_000));
    let payload = json!({"mark": mark, "list": [], "pad": pad});
    let put = put(&id, "small", Content::Json(payload));
    match chance.below(100) {
        0..60 => vec![put],
        60..80 => {
            let merge = json!({"mark": mark, "extra": pad.get(..100).unwrap_or(&pad)});
            vec![bare(json!({"do": "node.patch", "id": id, "merge": merge}))]
        }
        80..90 => {
            let patch = json!([{"op": "add", "path": "/list/-", "value": mark}]);
            vec![bare(json!({"do": "node.patch", "id": id, "patch": patch}))]
        }
        90..95 => vec![bare(json!({"do": "chat.post", "text": mark}))],
        _ => {
            let other = format!("n{}", chance.below(nodes));
            vec![put, self::put(&other, "small", Content::Json(json!({"mark": mark, "list": []})))]
        }
    }
}

fn large_put(chance: &mut Chance, dialect: Dialect, mark: &str) -> Outgoing {
    let id = format!("large{}", chance.below(LARGE_NODES));
    if dialect == Dialect::NativeBinary {
        let data = chance.bytes(LARGE_BYTES);
        return put(&id, "large", Content::Opaque { media_type: format!("mark/{mark}"), data, deltas: Vec::new() });
    }
    let pad: String = chance.bytes(LARGE_BYTES).iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    put(&id, "large", Content::Json(json!({"mark": mark, "list": [], "pad": pad})))
}

fn put(id: &str, kind: &str, payload: Content) -> Outgoing {
    Outgoing { payload: Some(payload), ..bare(json!({"do": "node.put", "id": id, "kind": kind})) }
}

fn bare(fields: Value) -> Outgoing {
    let fields = if let Value::Object(fields) = fields { fields } else { Map::new() };
    Outgoing { fields, payload: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_operations() {
        let sizes = |seed| {
            let mut chance = Chance::new(seed);
            let mut size = |n: u64| {
                let operations = operation(&mut chance, Dialect::NativeJson, 200, "me:1", n == 7);
                super::super::wire::encode(Dialect::NativeJson, n + 1, operations).len()
            };
            (0..50).map(&mut size).collect::<Vec<_>>()
        };
        assert_eq!(sizes(5), sizes(5));
        assert_ne!(sizes(5), sizes(6));
        assert!(sizes(5)[7] > LARGE_BYTES);
    }
}
