# embed_files(NAME FILE...): the files as they are, in NAME.S, each with a zero behind it, and a table of them,
# signalbox_NAME_files, of base/embedded_file.h's type. Sets NAME_asm, the source to compile.
function(embed_files name)
  set(content ".section .rodata\n")
  set(table ".section .data.rel.ro,\"aw\",@progbits\n.balign 8\n.global signalbox_${name}_files\nsignalbox_${name}_files:\n")
  set(id 0)
  foreach(file ${ARGN})
    get_filename_component(file_name ${file} NAME)
    string(APPEND content ".balign 64\n.Lbegin${id}:\n.incbin \"${file}\"\n.Lend${id}:\n.byte 0\n"
           ".Lname${id}:\n.asciz \"${file_name}\"\n")
    string(APPEND table ".quad .Lname${id}, .Lbegin${id}, .Lend${id}\n")
    math(EXPR id "${id} + 1")
  endforeach()
  set(asm ${CMAKE_BINARY_DIR}/${name}.S)
  file(GENERATE OUTPUT ${asm}
       CONTENT "${content}${table}.quad 0, 0, 0\n.section .note.GNU-stack,\"\",@progbits\n")
  set_source_files_properties(${asm} PROPERTIES GENERATED TRUE OBJECT_DEPENDS "${ARGN}")
  set(${name}_asm ${asm} PARENT_SCOPE)
endfunction()
