//! What a server of Prometheus' API answers to an instant query:
//! <https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries>

use std::collections::BTreeMap;

use serde::Deserialize;

/// One sample of a vector.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) value: f64,
}

impl Sample {
    /// A label's value; one that is not there is an empty one.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

#[derive(Deserialize)]
struct Answer {
    status: String,
    #[serde(default)]
    error: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    kind: String,
    #[serde(default)]
    result: serde_json::Value,
}

#[derive(Deserialize)]
struct Row {
    metric: BTreeMap<String, String>,
    /// When, and the number as text.
    value: (f64, String),
}

/// Reads a vector. Numbers that are none are left out.
pub(super) fn samples(json: &[u8]) -> Result<Vec<Sample>, String> {
    let answer: Answer = serde_json::from_slice(json).map_err(|_| "this is no answer of Prometheus' API".to_owned())?;
    let data = match answer {
        Answer { status, data: Some(data), .. } if status == "success" => data,
        Answer { error, .. } => return Err(error),
    };
    if data.kind != "vector" {
        return Err(format!("it answered with a {} in place of a vector", data.kind));
    }
    let rows: Vec<Row> = serde_json::from_value(data.result).map_err(|error| error.to_string())?;
    let sample = |row: Row| {
        let value = row.value.1.parse().ok().filter(|value: &f64| value.is_finite())?;
        Some(Sample { labels: row.metric, value })
    };
    Ok(rows.into_iter().filter_map(sample).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_read_and_nothing_else() {
        let json = br#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{"instance":"a"},"value":[1.5,"2"]},{"metric":{},"value":[1,"NaN"]},{"metric":{},"value":[1,"+Inf"]}]}}"#;
        let samples = samples(json).unwrap();
        assert_eq!(samples.len(), 1);
        assert_eq!((samples[0].label("instance"), samples[0].label("pod"), samples[0].value), ("a", "", 2.0));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let said = |json: &str| samples(json.as_bytes()).unwrap_err();
        assert_eq!(said(r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#), "parse error");
        assert!(said("<html>").contains("no answer"));
        assert!(said(r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#).contains("scalar"));
        assert!(!said(r#"{"status":"success","data":{"resultType":"vector","result":[{}]}}"#).is_empty());
    }
}
