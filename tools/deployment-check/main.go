// Checks the files of deploy/ as those would read them that are not on this machine: Compose, BuildKit and Kustomize, by their own code.
//
//	deployment-check compose docker-compose.yml [ANOTHER.yml...]
//	deployment-check dockerfile Dockerfile
//	deployment-check kustomize deploy/kubernetes/base > all.yaml
//
// It says what is wrong, one line each, and ends with 1. `kustomize` also looks for what the schemas of Kubernetes do not know: names that
// nothing has, labels that select nothing, ports that are not there.
package main

import (
	"fmt"
	"os"
)

const usage = "usage: deployment-check compose FILE... | dockerfile FILE | kustomize DIRECTORY"

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	checks := map[string]func([]string) ([]string, error){
		"compose":    checkCompose,
		"dockerfile": checkDockerfile,
		"kustomize":  checkKustomization,
	}
	check, known := checks[os.Args[1]]
	if !known {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	wrong, err := check(os.Args[2:])
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	for _, line := range wrong {
		fmt.Fprintf(os.Stderr, "%s: %s\n", os.Args[2], line)
	}
	if len(wrong) > 0 {
		os.Exit(1)
	}
}
