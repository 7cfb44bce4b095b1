// What decides the results of a study: its settings as they are written down, and its identity.
#pragma once
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/data/records.h"
#include "eval/faithfulness/study.h"
#include "eval/store/facts.h"

namespace signalbox::eval {

// The study's surroundings, beside FaithfulnessOptions.
struct StudyInputs {
  ModelFacts model;
  std::vector<std::string> tests;   // as asked for: "early", "mistakes", "paraphrases", "filler", "misroute"
  json::Value edits;                // the array of an edit spec, or null
  std::filesystem::path edits_dir;  // its relative paths are relative to this
  std::string special;              // how special tokens in texts are read (--special)
  std::string template_variables;   // as given, JSON or empty
  std::string date;                 // that the template prints; empty: it prints none, or the day's
  const std::vector<Record>* records = nullptr;
};

// settings.json.
json::Value study_settings(const FaithfulnessOptions& options, const StudyInputs& inputs);

// Manifest::identity: the settings, and SHA-256 of weights, tokenizer, template, records and files of edits. Reads the
// latter. Throws Error.
json::Value study_identity(const json::Value& settings, const StudyInputs& inputs);

}  // namespace signalbox::eval
