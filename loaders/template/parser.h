// The parser's state, shared by the two halves of its grammar: parser.cpp (statements) and expressions.cpp.
#pragma once
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/namespaces.h"
#include "loaders/template/ast.h"
#include "loaders/template/lexer.h"

namespace signalbox::loaders::jinja {

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  Template run();

 private:
  // Counts the nesting of the grammar's recursion.
  struct Level {
    explicit Level(Parser& parser) : parser(parser) {
      if (++parser.level_ > 150) parser.fail("the template is nested too deeply");
    }
    ~Level() { --parser.level_; }
    Parser& parser;
  };
  // A macro body while it is parsed: jinja decides by what the body mentions which special arguments a macro takes.
  struct Mentions {
    bool caller = false, kwargs = false, varargs = false;                 // read before it was written
    bool caller_done = false, kwargs_done = false, varargs_done = false;  // written
  };

  // tokens
  const Token& current() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool is_op(std::string_view op) const { return current().type == TokenType::op && current().text == op; }
  bool is_name(std::string_view name) const { return current().type == TokenType::name && current().text == name; }
  bool skip_op(std::string_view op);
  bool skip_name(std::string_view name);
  void expect_op(std::string_view op);
  void expect_name(std::string_view name);
  std::string expect_any_name();
  void expect(TokenType type);
  [[noreturn]] void fail(const std::string& message) const;
  [[noreturn]] void fail_at(int line, const std::string& message) const { throw SyntaxFailure{line, message}; }
  [[noreturn]] void fail_unexpected() const;

  // names
  int intern(const std::string& name);
  void mention(const std::string& name, bool stored);

  // expressions.cpp
  ExprPtr node(ExprKind kind, int line) const;
  ExprPtr finish(ExprPtr expr) const;  // computes the depth
  ExprPtr parse_expression(bool with_condition = true);
  ExprPtr parse_conditional();
  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  ExprPtr parse_compare();
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_power();
  ExprPtr parse_unary(bool with_filter = true);
  ExprPtr parse_primary(bool target = false);
  ExprPtr parse_postfix(ExprPtr expr);
  ExprPtr parse_filters(ExprPtr expr);
  ExprPtr parse_filter(ExprPtr subject, bool start_inline = false);
  ExprPtr parse_test(ExprPtr subject);
  ExprPtr parse_subscript(ExprPtr object);
  ExprPtr parse_call(ExprPtr callee);
  void parse_arguments(Expr& call);
  ExprPtr parse_list();
  ExprPtr parse_dict();
  enum class TupleEnd { none, in, recursive };
  ExprPtr parse_tuple(bool target = false, bool with_condition = true, TupleEnd end = TupleEnd::none,
                      bool parentheses = false);
  ExprPtr parse_target(TupleEnd end = TupleEnd::none, bool with_namespace = false);
  int parse_name_target();
  void check_target(const Expr& target, bool with_namespace) const;

  // statements
  Body parse_body(std::initializer_list<std::string_view> ends);  // up to "{% END", END not consumed
  Body parse_statements(std::initializer_list<std::string_view> ends);
  StmtPtr parse_statement();
  StmtPtr parse_for(StmtPtr stmt);
  StmtPtr parse_if(StmtPtr stmt);
  StmtPtr parse_set(StmtPtr stmt);
  StmtPtr parse_with(StmtPtr stmt);
  StmtPtr parse_macro(StmtPtr stmt);
  StmtPtr parse_call_block(StmtPtr stmt);
  StmtPtr parse_block(StmtPtr stmt);
  void parse_signature(MacroInfo& macro);
  void parse_macro_body(Stmt& stmt, std::string_view end);
  StmtPtr make(StmtKind kind, int line) const;

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int level_ = 0, loops_ = 0;
  bool namespace_targets_ = false;
  std::vector<Mentions> macros_;
  std::vector<std::string> blocks_;
  std::unordered_map<std::string, int> ids_;  // of result_.names
  Template result_;
};

// check.cpp: refuses unknown filters and tests, outside of conditions as jinja does.
void check_names(const Template& parsed);

}  // namespace signalbox::loaders::jinja
