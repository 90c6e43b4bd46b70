//! Members that many actions have: filters and tags.

use super::{form::Fields, xml::Element};
use crate::{api::proto::v1, backend::Refusal, rule::Tag};

/// One of `Filter.N`.
pub fn filter(fields: &mut Fields) -> Result<v1::Filter, Refusal> {
    Ok(v1::Filter { name: fields.text("Name"), values: fields.texts("Value")? })
}

/// One of `TagSpecification.N`.
pub fn tag_specification(fields: &mut Fields) -> Result<v1::TagSpecification, Refusal> {
    Ok(v1::TagSpecification {
        resource_type: fields.text("ResourceType"),
        tags: fields
            .list("Tag", |tag| Ok(v1::Tag { key: tag.text("Key"), value: tag.text("Value") }))?,
    })
}

/// Tags.
pub fn tag_set(tags: &[Tag]) -> Element {
    let item = |tag: &Tag| Element::new("item").member("key", &tag.key).member("value", &tag.value);
    Element::items("tagSet", tags.iter().map(item))
}
