// The report of a `signalbox faithfulness` directory: does the answer follow from the explanation?
#pragma once
#include <filesystem>
#include <string>

#include "base/namespaces.h"

namespace signalbox::eval {

// Whether it holds the tables of a finished study.
bool is_faithfulness_directory(const std::filesystem::path& dir);

// One HTML page of the directory's summary.json, curves.csv, aoc.csv, routing.csv and, where they are there, the tables
// of the forced form: what was found in sentences, the curves of early answering, mistakes, paraphrases and filler with
// the areas over them, every alteration with the answer's routes. Throws Error naming the file that is missing or
// wrong.
std::string render_faithfulness_report(const std::filesystem::path& dir);

}  // namespace signalbox::eval
