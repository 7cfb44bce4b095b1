// What a benchmark tells: every figure as soon as it is there.
#pragma once
#include <cstdio>
#include <string>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::tools {

// Text: lines as they come. JSON: a line for each figure, whose "figure" says which it is, and last the document with
// all of them, which has no such key. Each line is flushed.
class Figures {
 public:
  explicit Figures(bool json) : json_(json) {}

  // A line of text, formatted as by printf; nothing with JSON.
  template <class... T>
  void text(const char* format, T... values) const {
    if (json_) return;
    if constexpr (sizeof...(values) == 0) {
      print(format);
    } else {
      char line[512];
      std::snprintf(line, sizeof line, format, values...);
      print(line);
    }
  }
  // A figure, an object, as a line of JSON.
  void line(const char* figure, const json::Value& value) const;
  // A figure that is not measured, and why.
  void left_out(const std::string& what, const std::string& why);
  // Ends with the document; nothing in text.
  void finish();

  json::Value document = json::Value::object();

 private:
  void print(const std::string& text) const;
  bool json_;
  json::Value left_out_ = json::Value::array();
};

}  // namespace signalbox::tools
