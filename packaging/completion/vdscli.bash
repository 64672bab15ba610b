# bash completion for vdscli; made by: vdscli completion bash
_vdscli() {
    local candidate
    COMPREPLY=()
    while IFS=$'\t' read -r candidate _; do
        if [[ $candidate == :files ]]; then
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]#=}")
            return
        fi
        [[ $candidate == *= ]] && compopt -o nospace
        COMPREPLY+=("$candidate")
    done < <("$1" --complete bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _vdscli vdscli
