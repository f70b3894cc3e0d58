//! Adapters come and go at run time; what is no good never takes the place of what was.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use lorb_engine::lora::{Adapter, LoraConfig};
use lorb_engine::model::BaseModel;
use lorb_engine::serve::Limits;
use serde_json::{Value, json};

use crate::embedded::Embedded;
use crate::harness::{Server, conforms, write_adapter, write_adapters, write_shaped};
use crate::support::cli::Desk;
use crate::support::{TinyBert, tiny_bert};

fn ask(adapter: &str) -> Value {
    json!({"adapter": adapter, "hyps": [{"text": "she said that", "am": -1.0}, {"text": "he said that", "am": -1.1}]})
}

fn lorb(answer: &Value) -> [f64; 2] {
    [0, 1].map(|i| answer["utterances"][0]["hyps"][i]["lorb"].as_f64().unwrap())
}

fn loaded(server: &Server) -> Vec<String> {
    let listed = server.get("/v1/adapters").json();
    conforms("Adapters", &listed);
    let adapters = listed["adapters"].as_array().unwrap().iter();
    adapters.filter(|a| a["loaded"] == true).map(|a| a["name"].as_str().unwrap().into()).collect()
}

#[test]
fn they_are_loaded_on_demand_read_again_and_unloaded() {
    let desk = Desk::new();
    write_adapters(&desk, &["one", "two"]);
    let server = Server::start(&desk, "--adapters adapters");
    assert_eq!(loaded(&server), [""; 0]);
    let (one, two) = (lorb(&server.rescore(&ask("one"))), lorb(&server.rescore(&ask("two"))));
    assert_ne!(one, two);
    assert_eq!(loaded(&server), ["one", "two"]);

    // Other files under the name are not seen before they are asked for.
    fs::remove_dir_all(desk.path("adapters/one")).unwrap();
    write_adapter(&desk.path("base"), &desk.path("adapters/one"), 1);
    assert_eq!(lorb(&server.rescore(&ask("one"))), one);
    let put = server.ask("PUT", "/v1/adapters/one", "");
    assert_eq!(put.status, 200, "{}", put.text());
    conforms("LoadedAdapter", &put.json());
    assert_eq!(lorb(&server.rescore(&ask("one"))), two);

    let deleted = server.ask("DELETE", "/v1/adapters/one", "");
    assert_eq!(deleted.status, 200);
    conforms("UnloadedAdapter", &deleted.json());
    assert_eq!(loaded(&server), ["two"]);
    assert_eq!(server.ask("DELETE", "/v1/adapters/one", "").code(), "no_adapter");
    assert_eq!(lorb(&server.rescore(&ask("one"))), two);
}

#[test]
fn one_that_is_read_again_takes_its_memory_once() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, "--adapters adapters");
    let bytes = || server.get("/v1/adapters").json()["bytes"].as_u64().unwrap();
    server.rescore(&ask("a"));
    let once = bytes();
    assert_eq!(server.ask("PUT", "/v1/adapters/a", "").status, 200);
    assert!(once > 0 && bytes() == once, "{once} {}", bytes());
}

#[test]
fn a_known_score_is_not_taken_for_that_of_another_scale_or_bias() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, "--adapters adapters");
    let mut known = vec![lorb(&server.rescore(&ask("a")))];
    let model = BaseModel::open(&desk.path("base")).unwrap();
    let folder = desk.path("adapters/a");
    for change in [(|a| a.config.alpha *= 2.0) as fn(&mut Adapter), |a| a.classifier_bias += 1.0] {
        let mut adapter = Adapter::load(&folder, &model.config, &model.checkpoint).unwrap();
        change(&mut adapter);
        adapter.save(&folder).unwrap();
        assert_eq!(server.ask("PUT", "/v1/adapters/a", "").status, 200);
        let found = lorb(&server.rescore(&ask("a")));
        assert!(!known.contains(&found), "{found:?}");
        known.push(found);
    }
}

#[test]
fn a_bad_one_is_refused_with_the_reason_and_the_old_one_stays() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, "--adapters adapters --cache-memory 0");
    let before = lorb(&server.rescore(&ask("a")));
    let weights = desk.path("adapters/a/adapter_model.safetensors");
    let (good, config) = (fs::read(&weights).unwrap(), desk.path("adapters/a/adapter_config.json"));
    let good_config = fs::read_to_string(&config).unwrap();

    let mut not_finite = good.clone();
    let end = not_finite.len();
    not_finite[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let other = desk.path("other");
    let wider = TinyBert { hidden: 16, ..TinyBert::default() };
    tiny_bert(&other, 5, &wider);
    write_adapter(&other, &desk.path("adapters/mismatched"), 0);
    let mismatched = fs::read(desk.path("adapters/mismatched/adapter_model.safetensors")).unwrap();

    let refused = |content: &[u8], config_text: &str, word: &str| {
        fs::write(&weights, content).unwrap();
        fs::write(&config, config_text).unwrap();
        let put = server.ask("PUT", "/v1/adapters/a", "");
        assert_eq!((put.status, put.code().as_str()), (422, "bad_adapter"), "{}", put.text());
        conforms("Problem", &put.json());
        assert!(put.text().contains(word), "{word}: {}", put.text());
        assert!(!put.text().contains(desk.path("").to_str().unwrap()), "no paths: {}", put.text());
        assert_eq!(lorb(&server.rescore(&ask("a"))), before);
    };
    refused(&good[..good.len() / 2], &good_config, "cut short");
    refused(b"nothing", &good_config, "safetensors");
    refused(&not_finite, &good_config, "finite");
    refused(&mismatched, &good_config, "another base");
    refused(&good, &good_config.replace("\"LORA\"", "\"IA3\""), "peft_type");
    refused(&good, "{", "adapter_config.json");
    // It is not there for those who ask for it first, either.
    let first = server.ask("POST", "/v1/rescore", &ask("mismatched").to_string());
    assert_eq!((first.status, first.code().as_str()), (422, "bad_adapter"));
    assert_eq!(server.figure("lorb_adapters_refused_total", ""), 7.0);
}

#[test]
fn the_least_recently_used_make_room() {
    let desk = Desk::new();
    let names: Vec<String> = (0..24).map(|i| format!("d{i:02}")).collect();
    let large = LoraConfig { rank: 16, targets: "all".parse().unwrap(), ..LoraConfig::default() };
    for (i, name) in names.iter().enumerate() {
        write_shaped(&desk.path("base"), &desk.path("adapters").join(name), i, large.clone());
    }
    // 1 MiB has room for some of them.
    let server = Server::start(&desk, "--adapters adapters --adapter-memory 1 --cache-memory 0");
    let scores: Vec<[f64; 2]> = names.iter().map(|name| lorb(&server.rescore(&ask(name)))).collect();
    let listed = server.get("/v1/adapters").json();
    let (bytes, budget) = (listed["bytes"].as_u64().unwrap(), listed["budget_bytes"].as_u64().unwrap());
    let kept = loaded(&server);
    assert!(bytes <= budget && budget == 1 << 20, "{bytes} of {budget}");
    assert!(kept.len() >= 3 && kept.len() < names.len(), "{} adapters in {bytes} bytes", kept.len());
    assert_eq!(kept, names[names.len() - kept.len()..], "the last ones asked for");
    assert_eq!(server.figure("lorb_adapters_evicted_total", ""), (names.len() - kept.len()) as f64);
    // What was asked for lately stays, and what went comes back as it was.
    let oldest = kept[0].clone();
    server.rescore(&ask(&oldest));
    assert_eq!(lorb(&server.rescore(&ask("d00"))), scores[0]);
    assert!(loaded(&server).contains(&oldest) && !loaded(&server).contains(&kept[1]));
    // Those of one request must have room at once.
    let together =
        |names: &[String]| json!({"utterances": names.iter().map(|name| ask(name)).collect::<Vec<_>>()});
    server.rescore(&together(&names[..kept.len()]));
    let refused = server.ask("POST", "/v1/rescore", &together(&names).to_string());
    let field = format!("utterances[{}].adapter", kept.len());
    assert_eq!((refused.status, refused.code(), refused.field()), (413, "too_large".into(), field));
    conforms("Problem", &refused.json());
}

#[test]
fn those_that_score_make_no_room_even_forgotten() {
    let service = Embedded::start(Limits::default(), |bank| Box::new(move |asked| bank.scores(asked)));
    let [a, b] = ["a", "b"].map(|name| {
        let put = service.ask("PUT", &format!("/v1/adapters/{name}"), "");
        put.json()["bytes"].as_u64().unwrap()
    });
    service.stop().unwrap();

    let (score_on, told) = mpsc::channel();
    let limits = Limits { max_wait: Duration::from_secs(30), ..Limits::default() };
    let service = Embedded::within((a + b - 1) as usize, limits, |bank| {
        Box::new(move |asked| {
            // Until the other end is gone.
            let _ = told.recv();
            bank.scores(asked)
        })
    });
    let scored = |name: &str| service.ask("POST", "/v1/rescore", &ask(name).to_string());
    let bytes = || service.ask("GET", "/v1/adapters", "").json()["bytes"].as_u64().unwrap();
    std::thread::scope(|scope| {
        let with_a = scope.spawn(|| scored("a"));
        while bytes() < a {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(service.ask("DELETE", "/v1/adapters/a", "").status, 200);
        for refused in [scored("b"), service.ask("PUT", "/v1/adapters/b", "")] {
            assert_eq!((refused.status, refused.code().as_str()), (503, "busy"));
            assert_eq!(refused.header("retry-after"), Some("1"));
        }
        assert_eq!(bytes(), a);
        drop::<mpsc::Sender<()>>(score_on);
        assert_eq!(with_a.join().unwrap().status, 200);
    });
    assert_eq!(bytes(), 0);
    assert_eq!(scored("b").status, 200);
    service.stop().unwrap();
}

#[test]
fn reloading_under_load_loses_nothing() {
    let desk = Desk::new();
    write_adapters(&desk, &["hot", "cold", "other"]);
    let server = Server::start(&desk, "--adapters adapters --cache-memory 0");
    let [hot, cold, other] = ["hot", "cold", "other"].map(|name| lorb(&server.rescore(&ask(name))));
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (server, done, answered) = (&server, &done, &answered);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let (name, expected) = if thread == 0 { ("cold", cold) } else { ("hot", hot) };
                    let found = lorb(&server.rescore(&ask(name)));
                    // Nothing but the old one and the new one, never a mixture.
                    assert!(found == expected || name == "hot" && found == other, "{name}: {found:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..30 {
            // Of one shape, so that the two files of the folder agree at any time.
            write_adapter(&desk.path("base"), &desk.path("adapters/hot"), if round % 2 == 0 { 2 } else { 0 });
            let (method, status) = if round % 3 == 2 { ("DELETE", [200, 404]) } else { ("PUT", [200, 200]) };
            let response = server.ask(method, "/v1/adapters/hot", "");
            assert!(status.contains(&response.status), "{}", response.text());
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(answered.load(Ordering::Relaxed) > 30);
    assert_eq!(server.figure("lorb_requests_total", "status=\"5"), 0.0, "{}", server.log());
}
