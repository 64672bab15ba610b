# fish completion for vdscli; made by: vdscli completion fish
function __vdscli_candidates
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    for line in ($program --complete fish $words (commandline -ct) 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c vdscli -f -a '(__vdscli_candidates)'
