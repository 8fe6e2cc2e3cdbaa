//! What single changes do, and that none of them can be made to do too much.

use super::*;
use crate::formats::pickle::{Class, Object, write_listed};

use std::sync::Arc;

fn dict(pairs: &[(&str, Value)]) -> Value {
    Value::Dict(Arc::new(pairs.iter().map(|(key, value)| (Value::text(key), value.clone())).collect()))
}

fn list(items: &[Value]) -> Value {
    Value::List(Arc::new(items.to_vec()))
}

fn ints(numbers: &[i64]) -> Value {
    list(&numbers.iter().copied().map(Value::Int).collect::<Vec<_>>())
}

fn at(pairs: &[(i64, Value)]) -> Value {
    Value::Dict(Arc::new(pairs.iter().map(|(key, value)| (Value::Int(*key), value.clone())).collect()))
}

fn changed(base: &Value, sort: &str, changes: &[(&str, Value)]) -> Result<Value, DeltaError> {
    Delta::of(dict(&[(sort, dict(changes))]))?.apply(base)
}

fn opcode(tag: &str, from: i64, to: i64, new: Value) -> Value {
    let class = Class { module: "deepdiff.helper".into(), name: "Opcode".into() };
    let arguments =
        vec![Value::text(tag), Value::Int(from), Value::Int(to), Value::Int(0), Value::Int(0), Value::None, new];
    let arguments = Value::Tuple(Arc::new(arguments));
    Value::Object(Arc::new(Object { class, arguments, state: Value::None }))
}

fn class(name: &str) -> Value {
    Value::Class(Arc::new(Class { module: "builtins".into(), name: name.into() }))
}

#[test]
fn what_is_not_there_is_skipped() {
    let base = dict(&[("l", ints(&[1, 2])), ("t", Value::text("abc"))]);
    let new = dict(&[("new_value", Value::Int(9))]);
    for path in ["root['x']", "root['l'][2]", "root['l']['x']", "root['t'][0]", "root['l'][-1]"] {
        assert_eq!(changed(&base, "values_changed", &[(path, new.clone())]).unwrap(), base, "{path}");
    }
    for path in ["root['x']", "root['l'][7]", "root['x'][0]"] {
        assert_eq!(changed(&base, "dictionary_item_removed", &[(path, Value::Int(9))]).unwrap(), base, "{path}");
    }
    for path in ["root['l'][9]", "root['x'][0]"] {
        assert_eq!(changed(&base, "iterable_item_added", &[(path, Value::Int(9))]).unwrap(), base, "{path}");
    }
}

#[test]
fn data_of_another_shape_refuses_the_delta() {
    let base = dict(&[("l", ints(&[1, 2])), ("n", Value::None)]);
    let members = Value::Set(Arc::new(vec![Value::Int(1)]));
    for (sort, path, change) in [
        ("set_item_added", "root['l']", members.clone()),
        ("set_item_removed", "root['x']", members),
        ("iterable_item_added", "root['n'][0]", Value::None),
        ("iterable_item_removed", "root['l']['x']", Value::None),
        ("iterable_items_added_at_indexes", "root['n']", at(&[(0, Value::None)])),
        ("_iterable_opcodes", "root['n']", list(&[opcode("insert", 0, 0, ints(&[1]))])),
        ("dictionary_item_removed", "root", Value::None),
    ] {
        let result = changed(&base, sort, &[(path, change)]);
        assert!(matches!(result, Err(DeltaError::DoesNotApply(_))), "{sort} {path}: {result:?}");
    }
}

#[test]
fn a_list_that_has_moved_on_loses_the_nearest_equal_item() {
    let base = ints(&[5, 7, 0, 0, 7]);
    let removed = |index: i64, value: i64| {
        changed(&base, "iterable_item_removed", &[(&format!("root[{index}]"), Value::Int(value))]).unwrap()
    };
    assert_eq!(removed(0, 5), ints(&[7, 0, 0, 7]));
    assert_eq!(removed(3, 7), ints(&[5, 7, 0, 0]));
    assert_eq!(removed(99, 7), ints(&[5, 7, 0, 0]));
    assert_eq!(removed(i64::MAX, 5), ints(&[7, 0, 0, 7]));
    assert_eq!(removed(2, 8), base);
}

#[test]
fn added_items_whose_index_the_list_does_not_reach_go_to_the_end_in_turn() {
    let added = at(&[(9, Value::text("b")), (1, Value::text("a")), (4, Value::text("c"))]);
    let result = changed(&ints(&[1, 2]), "iterable_items_added_at_indexes", &[("root", added)]).unwrap();
    let expected = [Value::Int(1), Value::text("a"), Value::Int(2), Value::text("b"), Value::text("c")];
    assert_eq!(result, list(&expected));
}

#[test]
fn opcodes_build_a_list_anew_but_not_a_tuple_that_nothing_else_has_changed() {
    let opcodes = list(&[
        opcode("equal", 0, 1, Value::None),
        opcode("delete", 1, 2, Value::None),
        opcode("insert", 2, 2, ints(&[8, 9])),
        opcode("equal", 2, 99, Value::None),
    ]);
    let result = |base: &Value| changed(base, "_iterable_opcodes", &[("root", opcodes.clone())]).unwrap();
    assert_eq!(result(&ints(&[1, 2, 3])), ints(&[1, 8, 9, 3]));
    let tuple = Value::Tuple(Arc::new(vec![Value::Int(1), Value::Int(2)]));
    assert_eq!(result(&tuple), tuple);
}

#[test]
fn a_tuple_is_changed_in_place_and_stays_one() {
    let tuple = |numbers: &[i64]| Value::Tuple(Arc::new(numbers.iter().copied().map(Value::Int).collect()));
    let new = dict(&[("new_value", Value::Int(9))]);
    assert_eq!(changed(&tuple(&[1, 2]), "values_changed", &[("root[1]", new)]).unwrap(), tuple(&[1, 9]));
    assert_eq!(
        changed(&tuple(&[1, 2]), "iterable_item_added", &[("root[1]", Value::Int(9))]).unwrap(),
        tuple(&[1, 9, 2])
    );
    assert_eq!(changed(&tuple(&[1, 2]), "iterable_item_removed", &[("root[0]", Value::Int(1))]).unwrap(), tuple(&[2]));
}

#[test]
fn a_key_that_is_there_twice_is_removed_altogether() {
    let base = dict(&[("a", Value::Int(1)), ("b", Value::None), ("a", Value::Int(2))]);
    let result = changed(&base, "dictionary_item_removed", &[("root['a']", Value::Int(2))]).unwrap();
    assert_eq!(result, dict(&[("b", Value::None)]));
}

#[test]
fn only_plain_data_gets_into_the_data() {
    let inside = list(&[class("int")]);
    assert_eq!(
        changed(&Value::None, "values_changed", &[("root", dict(&[("new_value", inside.clone())]))]),
        Err(DeltaError::NotData)
    );
    assert_eq!(changed(&Value::None, "dictionary_item_added", &[("root", inside.clone())]), Err(DeltaError::NotData));
    let hidden = dict(&[("new_value", Value::None), ("old_value", inside)]);
    assert_eq!(changed(&Value::None, "values_changed", &[("root", hidden)]), Err(DeltaError::NotData));
}

#[test]
fn what_is_no_delta_is_refused() {
    for source in [Value::None, list(&[]), dict(&[("values_changed", Value::None)])] {
        assert!(matches!(Delta::of(source), Err(DeltaError::Malformed(_))));
    }
    let unknown = Delta::of(dict(&[("attribute_added", dict(&[]))])).unwrap_err();
    assert_eq!(unknown, DeltaError::UnknownChange("attribute_added".into()));
    let twice = list(&[opcode("equal", 0, 2, Value::None), opcode("equal", 1, 2, Value::None)]);
    assert!(matches!(changed(&ints(&[1, 2]), "_iterable_opcodes", &[("root", twice)]), Err(DeltaError::Malformed(_))));
}

#[test]
fn nothing_gets_in_too_deep() {
    let nested = |depth: usize| (0..depth).fold(Value::Int(1), |value, _| list(&[value]));
    let path = format!("root{}", "[0]".repeat(40));
    let put = |depth: usize| changed(&nested(41), "values_changed", &[(&path, dict(&[("new_value", nested(depth))]))]);
    assert_eq!(put(24).unwrap(), nested(64));
    assert_eq!(put(25), Err(DeltaError::Limit { what: "containers inside each other", max: 64 }));
}

#[test]
fn too_many_copies_of_what_is_shared_are_refused() {
    let shared = list(&vec![Value::None; 1_000_000]);
    let keys: Vec<String> = (0..10).map(|nth| format!("root['{nth}']")).collect();
    let added: Vec<_> = keys.iter().map(|key| (&**key, shared.clone())).collect();
    let items: Vec<String> = keys.iter().map(|key| format!("{key}[0]")).collect();
    let removed: Vec<_> = items.iter().map(|key| (&**key, Value::None)).collect();
    let bomb = dict(&[("dictionary_item_added", dict(&added)), ("dictionary_item_removed", dict(&removed))]);
    // It is small enough to be read, because all of them are the same list.
    let pickle = write_listed(&bomb, &Policy::COMMIT_DELTA).unwrap();
    let delta = Delta::read(&pickle.into()).unwrap();
    assert_eq!(
        delta.apply(&dict(&[])),
        Err(DeltaError::Limit { what: "values copied for one delta", max: COPIES_MAX })
    );
}

#[test]
fn too_much_work_is_refused() {
    // Each of these keys is compared with all others.
    let keys: Vec<String> = (0..20_000).map(|nth| format!("root['{nth}']")).collect();
    let added: Vec<_> = keys.iter().map(|key| (&**key, Value::None)).collect();
    let result = changed(&dict(&[]), "dictionary_item_added", &added);
    assert_eq!(result, Err(DeltaError::Limit { what: "steps of work for one delta", max: STEPS_MAX }));
}

#[test]
fn what_a_fold_makes_can_be_read_again_or_is_refused() {
    let base = Bytes::from(write(&dict(&[("a", ints(&[1]))])).unwrap());
    let grow = dict(&[("iterable_item_added", dict(&[("root['a'][1]", Value::Int(2))]))]);
    let grow = Bytes::from(write(&grow).unwrap());
    let folded = fold(&base, [&grow]).unwrap();
    assert_eq!(read_pickle(&folded, &Policy::DATA_ONLY).unwrap(), dict(&[("a", ints(&[1, 2]))]));
    let grown = fold(&folded, [&grow, &grow]).unwrap();
    assert_eq!(read_pickle(&grown, &Policy::DATA_ONLY).unwrap(), dict(&[("a", ints(&[1, 2, 2, 2]))]));
    assert!(matches!(fold(&grow, [&base]), Err(DeltaError::UnknownChange(_))));
    assert!(matches!(fold(&Bytes::new(), []), Err(DeltaError::Pickle(_))));
}
