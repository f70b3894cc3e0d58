//! The page for people, in a real browser: with the keyboard alone, and on a phone.

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::harness::{Server, write_adapters};
use crate::support::cli::Desk;

const LISTS: &str = concat!(
    r#"{"id": "u1", "ref": "x", "hyps": [{"text": "she said that he was", "am": -1, "x": 1}, {"text": "she said this he were", "am": -1.5}, {"text": "<img src=x onerror='document.title=1'>", "am": -9}]}"#,
    "\n",
    r#"{"id": "u2", "hyps": [{"text": "of the", "am": 0}]}"#,
);

fn open(options: &str) -> Option<(Desk, Server, Browser)> {
    let mut browser = Browser::start()?;
    let desk = Desk::new();
    write_adapters(&desk, &["first", "second"]);
    let server = Server::start(&desk, &format!("--adapters adapters {options}"));
    browser.call("Page.navigate", json!({"url": format!("http://{}/", server.address)}));
    browser.wait_for(
        "document.readyState == 'complete' && document.getElementById('figures').children.length > 0",
    );
    Some((desk, server, browser))
}

#[test]
fn everything_works_from_the_keyboard() {
    let Some((_desk, server, mut browser)) = open("") else { return };
    browser.wait_for("document.querySelectorAll('#adapter option').length == 2");
    // One control after the other, each with a name.
    let mut visited = Vec::new();
    for _ in 0..6 {
        browser.press("Tab", 9, 0);
        visited.push(browser.evaluate("document.activeElement.id || document.activeElement.type"));
        let named = "document.activeElement.labels?.length > 0 || document.activeElement.textContent != ''";
        assert_eq!(browser.evaluate(named), true, "{visited:?}");
    }
    assert_eq!(visited, ["list", "file", "adapter", "lorb", "token", "submit"]);
    browser.evaluate("document.getElementById('adapter').value = 'second'");
    browser.evaluate("document.getElementById('list').focus()");
    browser.call("Input.insertText", json!({"text": LISTS}));
    browser.press("Enter", 13, 2);
    browser.wait_for("document.querySelectorAll('#result li').length == 4");

    // What it shows is what the service says.
    let ask = json!({"adapter": "second", "hyps": [
        {"text": "she said that he was", "am": -1}, {"text": "she said this he were", "am": -1.5},
        {"text": "<img src=x onerror='document.title=1'>", "am": -9},
    ]});
    let answer = server.rescore(&ask)["utterances"][0].clone();
    let items = browser
        .evaluate("[...document.querySelectorAll('#result article:first-child li')].map(li => li.innerText)");
    for (rank, (item, i)) in
        items.as_array().unwrap().iter().zip(answer["order"].as_array().unwrap()).enumerate()
    {
        let (item, i) = (item.as_str().unwrap(), i.as_u64().unwrap() as usize);
        assert!(item.starts_with(&format!("{} (was {})", rank + 1, i + 1)), "{item}");
        let total = answer["hyps"][i]["total"].as_f64().unwrap();
        assert!(item.contains(&format!("total {total:.3}")), "{item}");
    }
    // The differing words, against the hypothesis that was first.
    let words = |tag: &str| {
        format!(
            "[...document.querySelectorAll('#result li')].map(li => [...li.querySelectorAll('{tag}')].map(e => e.textContent).join(' ')).filter(Boolean)"
        )
    };
    let (inserted, deleted): (Value, Value) =
        (browser.evaluate(&words("ins")), browser.evaluate(&words("del")));
    assert!(inserted.as_array().unwrap().contains(&json!("this were")), "{inserted}");
    assert!(deleted.as_array().unwrap().contains(&json!("that was")), "{deleted}");
    // Text is text.
    assert_eq!(browser.evaluate("document.querySelectorAll('#result img').length"), 0);
    // The button does the same, and what is wrong is said.
    browser.evaluate("document.getElementById('list').value = '{\"hyps\": 3}'");
    browser.evaluate("document.querySelector('button').focus()");
    browser.press("Enter", 13, 0);
    browser.wait_for("document.getElementById('problem').textContent.includes('hyps')");
    browser.wait_for("document.getElementById('figures').innerText.includes('hypotheses') && document.getElementById('ready').textContent == 'ready'");
}

#[test]
fn it_fits_a_phone_and_takes_files_and_tokens() {
    let desk_token = "0123456789abcdef-token";
    let Some(mut browser) = Browser::start() else { return };
    let desk = Desk::new();
    write_adapters(&desk, &["first"]);
    desk.write("token", desk_token);
    let server = Server::start(&desk, "--adapters adapters --token-file token");
    let phone = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
    browser.call("Emulation.setDeviceMetricsOverride", phone);
    browser.call("Page.navigate", json!({"url": format!("http://{}/", server.address)}));
    browser.wait_for(
        "document.readyState == 'complete' && document.getElementById('figures').children.length > 0",
    );
    // Without the token there are neither adapters nor scores.
    assert_eq!(browser.evaluate("document.querySelectorAll('#adapter option').length"), 0);
    let token = format!(
        "document.getElementById('token').value = '{desk_token}'; document.getElementById('token').dispatchEvent(new Event('change'))"
    );
    browser.evaluate(&token);
    browser.wait_for("document.querySelectorAll('#adapter option').length == 1");
    let drop = format!(
        "{{ const data = new DataTransfer(); data.items.add(new File([{}], 'lists.jsonl')); \
         document.getElementById('list').dispatchEvent(new DragEvent('drop', {{dataTransfer: data, cancelable: true}})); }}",
        json!(LISTS.replace("she", &"donaudampfschifffahrt".repeat(5)))
    );
    browser.evaluate(&drop);
    browser.wait_for("document.getElementById('list').value.includes('u2')");
    browser.evaluate("document.getElementById('form').requestSubmit()");
    browser.wait_for("document.querySelectorAll('#result li').length == 4");
    let (wide, screen) =
        (browser.evaluate("document.documentElement.scrollWidth"), browser.evaluate("innerWidth"));
    assert_eq!((wide.as_u64(), screen.as_u64()), (Some(360), Some(360)), "nothing is wider than the screen");
}
