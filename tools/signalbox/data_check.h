// What `signalbox data check` found, before it is printed.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/data/survey.h"
#include "eval/score/applicable.h"

namespace signalbox::tools {

using namespace eval;

// A command and whether these records are enough for it.
struct CommandUse {
  std::string name;
  std::string lacking;  // why not, and what to do; empty: they are
  std::string line;     // as one would type it; empty where nothing is to be typed
};

struct DataCheck {
  std::vector<std::string> files;
  std::string model;  // empty: none was given
  int64_t lines = 0;  // of the files, read or not
  Survey survey;
  std::optional<TokenSurvey> tokens;
  std::vector<Applicability> scores;
  std::vector<CommandUse> commands;
  std::vector<Problem> problems;      // a run would refuse the file
  std::vector<std::string> cautions;  // what one should know, and do
  std::string next;                   // the command line to go on with; empty while there are problems
};
// Reads the files, and what the model's tokenizer, template and configuration say of them. Throws Error for a file or a
// model that cannot be read.
DataCheck check_data(const std::vector<std::string>& files, const std::string& model);

// For people; `short_form`: problems and cautions alone.
std::string check_text(const DataCheck& check, bool short_form);
json::Value check_json(const DataCheck& check);

}  // namespace signalbox::tools
