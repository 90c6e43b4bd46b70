//! Lists from which policies leave something out: pages stay full, and neither their length nor their tokens tell how
//! much was left out.
//!
//! EC2 is asked for large pages, and ours are cut from what is left of them. A token of ours says which of EC2's pages
//! to read and the last item that was handed out from it.

use super::Work;
use crate::{
    access::Action,
    backend::{Answer, BackendError, DescribeGroups, DescribeRules, GroupImage, OwnedRule, Page},
};

/// The page sizes that EC2 takes.
const SIZES: std::ops::RangeInclusive<i32> = 5..=1000;

/// The most of EC2's pages that one page of ours is made of. A caller that may read next to nothing of a large
/// account gets a short page and a token then.
const MAX_PAGES: usize = 20;

/// What our tokens begin with.
const TOKEN: &str = "pc1.";

/// A request for a list.
pub(super) trait Listing: Sync {
    /// What it lists.
    type Item: Send;

    /// The page's size and token that the caller asked for.
    fn asked(&self) -> (Option<i32>, Option<&str>);

    /// Whether something may be left out of what is named.
    fn is_filtered(&self) -> bool;

    /// EC2's page.
    fn page<'a>(
        &'a self,
        work: &'a Work<'_>,
        size: Option<i32>,
        token: Option<String>,
    ) -> Answer<'a, Page<Self::Item>>;

    /// What the caller may read.
    fn readable<'a>(
        &'a self,
        work: &'a Work<'_>,
        items: Vec<Self::Item>,
    ) -> Answer<'a, Vec<Self::Item>>;

    /// An item's id.
    fn id(item: &Self::Item) -> &str;
}

/// The page that the caller asked for, of what it may read.
pub(super) async fn page<L: Listing>(
    work: &Work<'_>,
    list: &L,
) -> Result<Page<L::Item>, BackendError> {
    let (asked, token) = list.asked();
    // A size that EC2 refuses is EC2's to refuse.
    let size = asked.map(|size| if SIZES.contains(&size) { *SIZES.end() } else { size });
    let wanted = asked.and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
    let (mut after, mut token) = parse(token);
    let mut found: Vec<L::Item> = Vec::new();
    for _ in 0..MAX_PAGES {
        let Page { mut items, next_token } = list.page(work, size, token.clone()).await?;
        if let Some(last) = after.take()
            && let Some(at) = items.iter().position(|item| L::id(item) == last)
        {
            items.drain(..=at);
        }
        let mut items = list.readable(work, items).await?.into_iter();
        found.extend(items.by_ref().take(wanted.saturating_sub(found.len())));
        if items.next().is_some() {
            let last = found.last().map(L::id).unwrap_or_default();
            let next_token = Some(format!("{TOKEN}{last}.{}", token.unwrap_or_default()));
            return Ok(Page { items: found, next_token });
        }
        token = next_token;
        if token.is_none() {
            return Ok(Page { items: found, next_token: None });
        }
        if asked.is_none() || found.len() >= wanted {
            break;
        }
    }
    Ok(Page { items: found, next_token: token.map(|token| format!("{TOKEN}.{token}")) })
}

/// The item after which to go on, and EC2's token of the page that has it. What is not ours is EC2's.
fn parse(token: Option<&str>) -> (Option<String>, Option<String>) {
    let ours = token.and_then(|token| token.strip_prefix(TOKEN)?.split_once('.'));
    let given = |part: &str| (!part.is_empty()).then(|| part.to_owned());
    match ours {
        Some((after, token)) => (given(after), given(token)),
        None => (None, token.map(str::to_owned)),
    }
}

/// All pages of EC2's, without asking policies.
pub(super) async fn everything(
    work: &Work<'_>,
    request: &DescribeGroups,
) -> Result<Vec<GroupImage>, BackendError> {
    let mut all = Vec::new();
    let mut token = None;
    loop {
        let page = request.page(work, request.max_results, token).await?;
        all.extend(page.items);
        token = page.next_token;
        if token.is_none() {
            return Ok(all);
        }
    }
}

impl Listing for DescribeGroups {
    type Item = GroupImage;

    fn asked(&self) -> (Option<i32>, Option<&str>) {
        (self.max_results, self.next_token.as_deref())
    }

    fn is_filtered(&self) -> bool {
        !self.filters.is_empty()
    }

    fn page<'a>(
        &'a self,
        work: &'a Work<'_>,
        size: Option<i32>,
        token: Option<String>,
    ) -> Answer<'a, Page<GroupImage>> {
        let request = Self { max_results: size, next_token: token, ..self.clone() };
        Box::pin(async move {
            work.backend.describe_groups(&work.context, &work.target, &request).await
        })
    }

    fn readable<'a>(
        &'a self,
        work: &'a Work<'_>,
        items: Vec<GroupImage>,
    ) -> Answer<'a, Vec<GroupImage>> {
        let readable = work.readable_groups(Action::DescribeSecurityGroups, items);
        Box::pin(async move { Ok(readable) })
    }

    fn id(item: &GroupImage) -> &str {
        item.group.id.as_str()
    }
}

impl Listing for DescribeRules {
    type Item = OwnedRule;

    fn asked(&self) -> (Option<i32>, Option<&str>) {
        (self.max_results, self.next_token.as_deref())
    }

    fn is_filtered(&self) -> bool {
        !self.filters.is_empty()
    }

    fn page<'a>(
        &'a self,
        work: &'a Work<'_>,
        size: Option<i32>,
        token: Option<String>,
    ) -> Answer<'a, Page<OwnedRule>> {
        let request = Self { max_results: size, next_token: token, ..self.clone() };
        Box::pin(
            async move { work.backend.describe_rules(&work.context, &work.target, &request).await },
        )
    }

    fn readable<'a>(
        &'a self,
        work: &'a Work<'_>,
        items: Vec<OwnedRule>,
    ) -> Answer<'a, Vec<OwnedRule>> {
        Box::pin(work.readable_rules(items))
    }

    fn id(item: &OwnedRule) -> &str {
        item.rule.id.as_str()
    }
}
