//! Documents and expression trees: many small values that point to each other.

use crate::random::Random;
use serde_json::{Map, Value, json};

fn order(random: &mut Random, id: usize) -> Value {
    let items: Vec<Value> = (0..1 + random.below(6))
        .map(|i| {
            json!({
                "sku": format!("item-{:05}", random.below(5000)),
                "count": 1 + random.below(9),
                "price": (random.below(100_000) as f64) / 100.0,
                "note": if i == 0 { Value::Null } else { "wrap it \"well\"".into() },
            })
        })
        .collect();
    json!({
        "id": id,
        "customer": { "name": format!("customer {}", random.below(1000)), "tags": ["a", "bc", "def"] },
        "items": items,
    })
}

/// Builds orders, writes them as text, parses that, changes and totals what was read.
pub fn json() -> u64 {
    let mut random = Random::new(1);
    let mut sum = 0u64;
    for round in 0..30 {
        let orders: Vec<Value> = (0..1500).map(|id| order(&mut random, id)).collect();
        let text = serde_json::to_string(&orders).expect("it can be written");
        let mut read: Vec<Value> = serde_json::from_str(&text).expect("it can be read");
        assert!(read == orders, "round {round} changed on the way");
        let mut by_customer = Map::new();
        for order in &mut read {
            let items = order["items"].take();
            let count: u64 =
                items.as_array().unwrap().iter().map(|i| i["count"].as_u64().unwrap()).sum();
            let name = order["customer"]["name"].as_str().unwrap().to_owned();
            let total = by_customer.entry(name).or_insert(json!(0));
            *total = json!(total.as_u64().unwrap() + count);
            sum += count;
        }
        let again: u64 = by_customer.values().map(|v| v.as_u64().unwrap()).sum();
        sum = sum.wrapping_mul(31).wrapping_add(again + text.len() as u64);
    }
    sum
}

#[derive(Clone)]
enum Expression {
    Number(i64),
    Variable(String),
    Binary(char, Box<Expression>, Box<Expression>),
}
use Expression::{Binary, Number, Variable};

fn grow(random: &mut Random, depth: usize) -> Expression {
    if depth == 0 || random.below(8) == 0 {
        return match random.below(3) {
            0 => Variable(format!("x{}", random.below(10))),
            _ => Number(random.below(100) as i64),
        };
    }
    let sign = ['+', '-', '*'][random.below(3)];
    Binary(sign, Box::new(grow(random, depth - 1)), Box::new(grow(random, depth - 1)))
}

fn apply(sign: char, a: i64, b: i64) -> i64 {
    match sign {
        '+' => a.wrapping_add(b),
        '-' => a.wrapping_sub(b),
        _ => a.wrapping_mul(b),
    }
}

/// Folds constants and drops what adds nothing.
fn fold(e: Expression) -> Expression {
    let Binary(sign, a, b) = e else { return e };
    match (sign, fold(*a), fold(*b)) {
        (sign, Number(a), Number(b)) => Number(apply(sign, a, b)),
        ('+' | '-', a, Number(0)) | ('*', a, Number(1)) => a,
        ('*', _, Number(0)) => Number(0),
        (sign, a, b) => Binary(sign, Box::new(a), Box::new(b)),
    }
}

fn value(e: &Expression) -> i64 {
    match e {
        Number(n) => *n,
        Variable(name) => name.as_bytes()[1] as i64,
        Binary(sign, a, b) => apply(*sign, value(a), value(b)),
    }
}

/// Grows, copies and folds expression trees; folding must not change the value.
pub fn expressions() -> u64 {
    let mut random = Random::new(2);
    let mut kept: Vec<Expression> = Vec::new();
    let mut sum = 0u64;
    for round in 0..1200 {
        let tree = grow(&mut random, 12);
        let folded = fold(tree.clone());
        assert_eq!(value(&tree), value(&folded));
        sum = sum.wrapping_mul(31).wrapping_add(value(&folded) as u64);
        if kept.len() < 64 {
            kept.push(folded);
        } else {
            kept[round % 64] = folded;
        }
    }
    kept.iter().fold(sum, |sum, e| sum.wrapping_add(value(e) as u64))
}
