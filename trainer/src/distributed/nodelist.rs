//! Slurm's lists of hosts, such as `node[007-012,20],login1`.

/// Returns the first host of a list; `None` if the list is empty or malformed.
pub(super) fn first_host(list: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = list.trim();
    while let Some(at) = rest.find(['[', ',']) {
        host.push_str(&rest[..at]);
        if rest.as_bytes()[at] == b',' {
            return checked(host);
        }
        // The first of `007-012,20`; a name may hold several brackets.
        let (numbers, after) = rest[at + 1..].split_once(']')?;
        let number = numbers.split([',', '-']).next()?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        host.push_str(number);
        rest = after;
    }
    host.push_str(rest);
    checked(host)
}

fn checked(host: String) -> Option<String> {
    (!host.is_empty() && !host.contains([']', ' '])).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_host_of_a_list_is_found() {
        let check = |list: &str, expected: Option<&str>| assert_eq!(first_host(list).as_deref(), expected, "{list}");
        check("node1", Some("node1"));
        check("node1,node2", Some("node1"));
        check("node[007-012,20],login1", Some("node007"));
        check("node[3,5]", Some("node3"));
        check("rack[1-2]n[04-08].cluster", Some("rack1n04.cluster"));
        check("", None);
        check("node[", None);
        check("node[]", None);
        check("node[a-b]", None);
        check(",node2", None);
        check("node]1", None);
    }
}
