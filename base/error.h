// The one error type. Every failure a user can cause ends as one line: "signalbox: error: WHERE: WHAT".
#pragma once
#include <stdexcept>
#include <string>

namespace signalbox {

// A failure with its place: `where` names the file, key, tensor or flag; `what` says what was expected and what was
// found. Thrown by every folder, caught once, in tools/signalbox/main.cpp (exit code 1).
class Error : public std::runtime_error {
 public:
  Error(std::string where, const std::string& what)
      : std::runtime_error(where + ": " + what), where_(std::move(where)), what_(what) {}
  const std::string& where() const { return where_; }
  const std::string& reason() const { return what_; }

 private:
  std::string where_, what_;
};

// A command line that cannot be meant (exit code 2).
class UsageError : public Error {
 public:
  using Error::Error;
};

}  // namespace signalbox
