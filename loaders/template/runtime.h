// What filters, tests, methods and operators need of a running render.
#pragma once
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "loaders/template/value.h"

namespace signalbox::loaders::jinja {

class Runtime;

// The arguments of a call.
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
  bool empty() const { return positional.empty() && named.empty(); }
};

// Arguments bound to the names of a signature, as Python binds them. Slots without an argument are null.
class Bound {
 public:
  // The first `required` names must be given. With `keywords` false the names are for messages only.
  Bound(const char* function, const Args& args, std::initializer_list<const char*> names, size_t required = 0,
        bool keywords = true);
  const Value* operator[](size_t i) const { return slots_[i]; }
  bool has(size_t i) const { return slots_[i] != nullptr; }
  bool given(size_t i) const { return slots_[i] && !slots_[i]->is_none(); }  // present and not None
  int64_t integer(size_t i, int64_t otherwise) const;  // an argument that Python takes as an index
  bool flag(size_t i, bool otherwise) const { return slots_[i] ? truth(*slots_[i]) : otherwise; }
  const Text& text(size_t i) const;  // must be a string

 private:
  const char* function_;
  std::vector<const Value*> slots_;
  std::vector<const char*> names_;
};

// A callable: builtin, bound method or macro.
struct Function : Object {
  using Body = std::function<Value(Runtime&, Args&)>;
  Function(std::string name_in, Body body_in) : name(std::move(name_in)), body(std::move(body_in)) {}
  std::string name;
  Body body;
  // Of a macro (its attributes are visible to templates).
  bool is_macro = false;
  Value macro_attributes;  // a dict
};

// An object with attributes of its own: namespace, loop, cycler, ...
struct HostObject : Object {
  virtual const char* type_name() const = 0;
  virtual bool truth() const { return true; }
  virtual bool callable() const { return false; }
  virtual std::optional<Value> attribute(Runtime&, std::string_view) const { return std::nullopt; }
  virtual Value call(Runtime&, Args&) const;
  virtual std::optional<int64_t> length(Runtime&) const { return std::nullopt; }
  virtual void print(Runtime&, TextBuilder&, int level) const;
};

// A namespace(): the one thing that templates can change. Owned by the runtime until the render ends, since namespaces
// may refer to each other in circles.
struct Namespace : HostObject {
  const char* type_name() const override { return "Namespace"; }
  std::optional<Value> attribute(Runtime&, std::string_view name) const override;
  void print(Runtime&, TextBuilder&, int level) const override;
  void set(Runtime& rt, std::string_view name, Value value);
  std::vector<Dict::Entry> entries;
};

class Runtime {
 public:
  Runtime(uint64_t steps, uint64_t bytes) : budget(steps, bytes) {}
  virtual ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  Budget budget;

  // Makers of values, charged to the budget.
  Value string(std::string_view bytes, bool content = false, bool markup = false);
  Value string(const Text& text, size_t begin, size_t end);  // a range of bytes; keeps markup
  Value list(std::vector<Value> items);
  Value tuple(std::vector<Value> items);
  Value dict(std::vector<Dict::Entry> entries);
  Value generator(std::unique_ptr<Iterator> source, int depth);
  Value function(std::string name, Function::Body body, int depth = 0);
  std::shared_ptr<Namespace> make_namespace();

  // Python's protocols.
  std::unique_ptr<Iterator> iterate(const Value& value);
  std::vector<Value> collect(const Value& value);                // list(value)
  std::optional<int64_t> length(const Value& value);             // len(value); nullopt where Python raises
  Value attribute(const Value& value, const std::string& name);  // value.name of a template
  std::optional<Value> own_attribute(const Value& value, const std::string& name);  // getattr alone
  Value item(const Value& value, const Value& key);                                 // value[key] of a template
  Value slice(const Value& value, const Value& start, const Value& stop, const Value& step);
  bool contains(const Value& container, const Value& item);
  Value call(const Value& callee, Args& args);
  Value call_filter(const std::string& name, const Value& subject, Args& args);
  bool call_test(const std::string& name, const Value& subject, Args& args);
  bool equal(const Value& a, const Value& b) { return jinja::equal(budget, a, b); }

  // str(value) and repr(value); `str` gives a string as it is, markup and all.
  Value str(const Value& value);
  Value plain_str(const Value& value);  // without the markup flag
  void add_str(TextBuilder& out, const Value& value);
  void add_repr(TextBuilder& out, const Value& value, int level = 0);

  virtual std::string now(const std::string& format) = 0;  // strftime of the render's date

 private:
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

// operators.cpp
Value add(Runtime& rt, const Value& a, const Value& b);
Value subtract(Runtime& rt, const Value& a, const Value& b);
Value multiply(Runtime& rt, const Value& a, const Value& b);
Value divide(Runtime& rt, const Value& a, const Value& b);
Value floor_divide(Runtime& rt, const Value& a, const Value& b);
Value modulo(Runtime& rt, const Value& a, const Value& b);
Value power(Runtime& rt, const Value& a, const Value& b);
Value negate(Runtime& rt, const Value& a);
Value plus(Runtime& rt, const Value& a);

// format.cpp
std::string format_real(double value);                                // repr of a float
void add_quoted(Budget& budget, TextBuilder& out, const Text& text);  // repr of a string
Value format_percent(Runtime& rt, const Text& format, const Value& argument);
Value format_braces(Runtime& rt, const Text& format, const Args& args);

// tojson.cpp
Value to_json(Runtime& rt, const Value& value, const Args& args);

// strings.cpp: shared by filters and methods. White space is stripped where `chars` is null.
Value strip(Runtime& rt, const Text& text, const Text* chars, bool left, bool right);
Value replace(Runtime& rt, const Text& text, const Text& old, const Text& with, int64_t count);
Value upper(Runtime& rt, const Text& text);
Value lower(Runtime& rt, const Text& text);
Value capitalize(Runtime& rt, const Text& text);
Value title(Runtime& rt, const Text& text);
Value swapcase(Runtime& rt, const Text& text);
Value casefold(Runtime& rt, const Text& text);
Value repeat(Runtime& rt, const Text& text, int64_t times);
Value join(Runtime& rt, const Text& separator, const std::vector<Value>& parts);  // parts are strings
Value escape(Runtime& rt, const Value& value);                                    // markupsafe.escape
enum class Align { left, right, center };
Value pad(Runtime& rt, const Text& text, int64_t width, const Text* fill, Align align);
std::vector<Value> split_lines(Runtime& rt, const Text& text, bool keep_ends);
std::vector<Value> split(Runtime& rt, const Text& text, const Text* separator, int64_t limit);
std::vector<Value> split_right(Runtime& rt, const Text& text, const Text* separator, int64_t limit);
bool all_of(const Text& text, bool (*is)(char32_t));
bool text_is_lower(const Text& text);
bool text_is_upper(const Text& text);

// methods.cpp: getattr on the builtin types; nullopt where Python raises AttributeError.
std::optional<Value> builtin_attribute(Runtime& rt, const Value& value, const std::string& name);

// filters.cpp, filters_sequence.cpp, tests.cpp
using Filter = Value (*)(Runtime&, const Value&, Args&);
using Test = bool (*)(Runtime&, const Value&, Args&);
Filter find_filter(std::string_view name);
Filter find_sequence_filter(std::string_view name);
Test find_test(std::string_view name);
bool known_filter(std::string_view name);
bool known_test(std::string_view name);

// globals.cpp: range, dict, namespace, cycler, joiner, lipsum, raise_exception, strftime_now
std::vector<std::pair<std::string, Value>> make_globals(Runtime& rt);

// The first 60 code points, for messages.
std::string shorten(std::string_view text);

}  // namespace signalbox::loaders::jinja
