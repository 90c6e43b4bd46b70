//! Members that many actions have: filters, tokens and tags.

use super::{form::Fields, xml::Element};
use crate::{
    api::proto::v1,
    backend::{Filter, Refusal},
    rule::{Tag, permission::excerpt},
};

/// The most filters of a request, and the most values of one.
const MAX_FILTERS: usize = 50;
const MAX_FILTER_VALUES: usize = 200;

/// The most ids of a describe.
const MAX_IDS: usize = 1000;

/// One of `Filter.N`.
pub fn filter(fields: &mut Fields) -> Result<v1::Filter, Refusal> {
    Ok(v1::Filter { name: fields.text("Name"), values: fields.texts("Value")? })
}

/// All filters, for an action that has no other decoding.
pub fn filters(fields: &mut Fields) -> Result<Vec<Filter>, Refusal> {
    let filters = fields.list("Filter", |fields| {
        let name = fields.text("Name").filter(|name| !name.is_empty());
        let values = fields.texts("Value")?;
        let Some(name) = name else {
            let message = "The request must contain the parameter Filter.Name";
            return Err(Refusal::new("MissingParameter", message));
        };
        if values.is_empty() {
            let message = format!("The filter '{}' has no value.", excerpt(&name));
            return Err(Refusal::new("MissingParameter", message));
        }
        Ok(Filter { name, values })
    })?;
    if filters.len() > MAX_FILTERS
        || filters.iter().any(|filter| filter.values.len() > MAX_FILTER_VALUES)
    {
        let message =
            format!("At most {MAX_FILTERS} filters with {MAX_FILTER_VALUES} values each.");
        return Err(Refusal::new("FilterLimitExceeded", message));
    }
    Ok(filters)
}

/// The page to go on with, if there is one.
pub fn token(fields: &mut Fields) -> Option<String> {
    fields.text("NextToken").filter(|token| !token.is_empty())
}

/// A text that an action cannot do without.
pub fn required(fields: &mut Fields, name: &str) -> Result<String, Refusal> {
    fields.text(name).filter(|text| !text.is_empty()).ok_or_else(|| {
        let message = format!("The request must contain the parameter {name}");
        Refusal::new("MissingParameter", message)
    })
}

/// Ids to describe.
pub fn ids<T>(
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, Refusal>,
) -> Result<Vec<T>, Refusal> {
    if texts.len() > MAX_IDS {
        let message = format!("{} ids; at most {MAX_IDS} are allowed.", texts.len());
        return Err(Refusal::new("ResourceCountExceeded", message));
    }
    texts.iter().map(|text| parse(text)).collect()
}

/// One of `TagSpecification.N`.
pub fn tag_specification(fields: &mut Fields) -> Result<v1::TagSpecification, Refusal> {
    let resource_type = fields.text("ResourceType");
    let tags = fields.list("Tag", |fields| {
        Ok(v1::Tag { key: fields.text("Key"), value: fields.text("Value") })
    })?;
    Ok(v1::TagSpecification { resource_type, tags })
}

/// The tags for a new resource of that type, for an action that has no other decoding.
pub fn specified_tags(fields: &mut Fields, kind: &str) -> Result<Vec<Tag>, Refusal> {
    let specifications = fields.list("TagSpecification", |specification| {
        let given = specification.text("ResourceType").unwrap_or_default();
        if given != kind {
            let message = format!(
                "'{}' is not a valid taggable resource type here; it is '{kind}'.",
                excerpt(&given)
            );
            return Err(Refusal::new("InvalidParameterValue", message));
        }
        specification.list("Tag", tag)
    })?;
    Ok(specifications.into_iter().flatten().collect())
}

/// One of `Tag.N`.
pub fn tag(fields: &mut Fields) -> Result<Tag, Refusal> {
    let (key, value) = (fields.text("Key"), fields.text("Value"));
    Ok(Tag { key: key.unwrap_or_default(), value: value.unwrap_or_default() })
}

/// Tags.
pub fn tag_set(tags: &[Tag]) -> Element {
    let item = |tag: &Tag| Element::new("item").member("key", &tag.key).member("value", &tag.value);
    Element::items("tagSet", tags.iter().map(item))
}
