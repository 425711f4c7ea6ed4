//! Token vectors: the ids of whole prompts, with a real vocabulary.

use std::path::Path;
use std::sync::Arc;

use super::vector::{self, VectorError, items, text};
use super::{Data, Failure};
use crate::chat::json::Json;
use crate::chat::{Chat, ModelFacts};
use crate::llama::{Backend, LoadMode, LoadOptions, Model};
use crate::prompt::{Prompter, Purpose, chain};

/// Checks every case of a file; each has the name of the render vector that it is about.
pub(super) fn check(path: &Path, data: &Data, backend: &Backend) -> Vec<(String, Result<(), Failure>)> {
    let file = || -> Result<(Json, Arc<Model>), VectorError> {
        let json = vector::read(path)?;
        let model = vocabulary(&json, data, backend)?;
        Ok((json, model))
    };
    let (json, model) = match file() {
        Ok(found) => found,
        Err(error) => return vec![("vocabulary".to_owned(), Err(error.into()))],
    };
    let cases = match items(&json, "cases") {
        Ok(cases) => cases,
        Err(error) => return vec![("cases".to_owned(), Err(error.into()))],
    };
    cases
        .iter()
        .map(|case| {
            let name = text(case, "render_vector").unwrap_or("?").rsplit('/').next().unwrap_or("?");
            (name.to_owned(), check_case(case, &model, data))
        })
        .collect()
}

fn vocabulary(json: &Json, data: &Data, backend: &Backend) -> Result<Arc<Model>, VectorError> {
    let name = text(json, "vocab")?;
    // Written as the place of its origin, with the file's name last.
    let name = name.rsplit([' ', '/']).next().unwrap_or(name);
    let path = data.find(name, "vocab")?;
    let options = LoadOptions { path: &path, mode: LoadMode::VocabularyOnly, repack: false, gpu_layers: 0 };
    let model = Model::load(backend, &options, &mut |_| true);
    model.map(Arc::new).map_err(|error| VectorError::Unusable(error.to_string()))
}

fn check_case(case: &Json, model: &Arc<Model>, data: &Data) -> Result<(), Failure> {
    let render = vector::read(&data.find(text(case, "render_vector")?, "render")?)?;
    let template = data.find(text(&render, "template")?, "templates")?;
    let (architecture, _) = vector::family(text(&render, "model")?);
    let control = model.special_tokens().into_iter().filter(|token| token.control);
    let chat = Chat::new(ModelFacts {
        architecture: architecture.to_owned(),
        template: Some(std::fs::read_to_string(template).map_err(VectorError::from)?),
        bos_token: model.bos_text(),
        eos_token: model.eos_text(),
        control_tokens: control.map(|token| token.text).filter(|text| !text.is_empty()).collect(),
        dialect: None,
    });
    let prompter = Prompter::new(Arc::clone(model), chat, false);
    let prepared = prompter
        .conversation(&vector::conversation(&render)?, Purpose::Look)
        .map_err(|error| VectorError::Unusable(chain(&error)))?;
    let wanted: String = items(case, "tokens")?.iter().map(|token| format!("{token}\n")).collect();
    let found: String = prepared.tokens.iter().map(|token| format!("{token}\n")).collect();
    Failure::compare("token ids", &wanted, &found)
}
