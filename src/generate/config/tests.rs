use super::*;

#[test]
fn a_hugging_face_file_is_read_and_unknown_keys_are_ignored() {
    let config = GenerationConfig::from_json(
        r#"{"_from_model_config": true, "bos_token_id": 0, "eos_token_id": 2,
            "pad_token_id": 1, "do_sample": false, "top_k": 0, "max_new_tokens": 7,
            "transformers_version": "5.23.0", "prompts": {"draw": "{text}"}}"#,
    )
    .unwrap();
    assert!(config.text.greedy && !config.image.greedy);
    assert_eq!(config.text.top_k, None);
    assert_eq!(config.max_new_tokens, Some(7));
    assert_eq!(config.stop_ids, [2]);
    assert_eq!(GenerationConfig::from_json("{}").unwrap(), GenerationConfig::default());
}

#[test]
fn writing_and_reading_keeps_every_value() {
    let config = GenerationConfig {
        text: SamplingConfig { top_k: Some(10), ..SamplingConfig::TEXT },
        image: SamplingConfig {
            greedy: true,
            temperature: 1.5,
            min_p: 0.05,
            ..SamplingConfig::IMAGE
        },
        guidance_scale: 3.0,
        image_guidance_scale: Some(1.2),
        guidance_interval: [0.1, 0.9],
        guidance_ramp: GuidanceRamp::Cosine { power: 1.2 },
        negative_prompt: "blurry".to_owned(),
        aspect: Some([16, 9]),
        guess_slack: 0.5,
        candidates: 3,
        seed: 42,
        max_new_tokens: Some(9),
        mode: GenerationMode::ImageOnly,
        stop_ids: vec![2, 8710],
        stop_strings: vec!["\n\n".to_owned(), "</answer>".to_owned()],
    };
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(GenerationConfig::from_json(&json).unwrap(), config);
}

#[test]
fn every_key_can_be_changed_to_its_default_and_others_are_named() {
    let all = serde_json::to_value(GenerationConfig::with_all_keys()).unwrap();
    let keys = all.as_object().unwrap();
    let config = GenerationConfig::default().changed(keys).unwrap();
    assert_eq!(config, GenerationConfig::with_all_keys());
    let back = serde_json::json!({
        "candidates": 1, "guidance_interval": [0.0, 1.0], "guidance_ramp": "constant",
        "min_p": 0.0, "top_k": 0, "image": { "min_p": 0, "top_k": 0 },
    });
    let config = config.changed(back.as_object().unwrap()).unwrap();
    assert_eq!((config.candidates, config.text.top_k, config.image.min_p), (1, None, 0.0));
    for (json, told) in [
        (serde_json::json!({ "min_q": 0.1 }), "generation.min_q is no known key"),
        (serde_json::json!({ "image": { "topk": 1 } }), "generation.image.topk is no known"),
    ] {
        let error = config.changed(json.as_object().unwrap()).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn a_file_changes_what_it_says_and_keeps_the_rest() {
    let preset = crate::generate::Preset::Chameleon.config();
    let file = serde_json::json!({
        "temperature": 0.5,
        "image": { "top_k": 5, "top_p": null, "beams": 2 },
        "top_p": null,
        "eos_token_id": 7,
        "transformers_version": "5.0",
        "pad_token_id": 1,
    });
    let changed = preset.changed_by_file(file.as_object().unwrap()).unwrap();
    let mut expected = preset.clone();
    expected.text.temperature = 0.5;
    expected.image.top_k = Some(5);
    expected.stop_ids = vec![7];
    assert_eq!(changed, expected);
    let wrong = serde_json::json!({ "temperature": "hot" });
    assert!(preset.changed_by_file(wrong.as_object().unwrap()).is_err());
}

#[test]
fn values_out_of_range_are_named_with_what_is_allowed() {
    for (json, told) in [
        (r#"{"temperature": 0}"#, "temperature is 0; allowed: 0.0001 or more; for the most likely"),
        (r#"{"image": {"top_p": 1.5}}"#, "image.top_p is 1.5; allowed: above 0, at most 1"),
        (r#"{"repetition_penalty": -1}"#, "repetition_penalty is -1; allowed: above 0"),
        (r#"{"guidance_scale": -3}"#, "guidance_scale is -3; allowed: 0 or more"),
        (r#"{"eos_token_id": "x"}"#, "eos_token_id is neither an id, a number from 0 up, nor a"),
        (r#"{"eos_token_id": -1}"#, "eos_token_id is neither an id"),
        (r#"{"image": {"min_p": 1.5}}"#, "image.min_p is 1.5; allowed: 0 to 1"),
        (r#"{"guidance_interval": [0.5, 0.5]}"#, "guidance_interval is [0.5, 0.5]; allowed: ["),
        (r#"{"guidance_interval": [0, 1.5]}"#, "guidance_interval is [0, 1.5]; allowed: ["),
        (r#"{"guidance_ramp": "steep"}"#, "guidance_ramp is \"steep\"; allowed: constant,"),
        (r#"{"stop_strings": 3}"#, "stop_strings is neither a text nor a list of texts"),
        (r#"{"stop_strings": ["a", ""]}"#, "stop_strings: a stop string has 0 bytes; allowed"),
        (r#"{"candidates": 0}"#, "candidates is 0; allowed: 1 to 64"),
        (r#"{"max_new_tokens": 0}"#, "max_new_tokens is 0; allowed: 1 or more"),
        (r#"{"modality": "sound"}"#, "unknown variant `sound`"),
    ] {
        let error = GenerationConfig::from_json(json).unwrap_err().to_string();
        assert!(error.contains(told), "{json}: {error}");
    }
    let top_k = SamplingConfig { top_k: Some(0), ..SamplingConfig::IMAGE };
    let config = GenerationConfig { image: top_k, ..GenerationConfig::default() };
    assert!(config.validate().unwrap_err().to_string().starts_with("image.top_k is 0"));
}
