// What judges see of a record when no model is open: the prompt, or messages as a chat template prints them.
#pragma once
#include <functional>
#include <string>

#include "eval/data/records.h"

namespace signalbox::tools {

using namespace eval;

// Of the model, opened when the first record of messages comes: its tokenizer and template alone. Such a record without
// a model is an Error at its place.
std::function<std::string(const Record&)> shown_text_of_model(const std::string& model);

// Of the model and the template variables of the run in `dir`. Throws Error for a template that is not the run's.
std::function<std::string(const Record&)> shown_text_of_run(const std::string& dir);

}  // namespace signalbox::tools
