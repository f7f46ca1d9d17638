package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// bindingFlags are those of create rolebinding and create clusterrolebinding.
type bindingFlags struct {
	writeFlags
	role, clusterRole       string
	users, groups, accounts []string
}

func newCreateBinding(f *factory, cluster bool) *cobra.Command {
	var b bindingFlags
	c := &cobra.Command{
		Use: "rolebinding NAME --clusterrole=NAME|--role=NAME [--user=USER] [--group=GROUP]", Short: "Give a role to users and groups in a namespace", Args: cobra.ExactArgs(1),
		Example: "  orchctl create rolebinding students --clusterrole=edit --group=students -n webflix",
		RunE: func(c *cobra.Command, args []string) error {
			if (b.role == "") == (b.clusterRole == "") {
				if cluster {
					return fmt.Errorf("exactly one clusterrole must be specified")
				}
				return fmt.Errorf("exactly one of clusterrole or role must be specified")
			}
			ref := &v1.RoleRef{ApiGroup: api.GroupRBAC, Kind: "Role", Name: b.role}
			if b.clusterRole != "" {
				ref.Kind, ref.Name = "ClusterRole", b.clusterRole
			}
			subjects, err := b.subjects()
			if err != nil {
				return err
			}
			if cluster {
				return b.create(c, f, &v1.ClusterRoleBinding{Metadata: &v1.ObjectMeta{Name: args[0]}, RoleRef: ref, Subjects: subjects})
			}
			return b.create(c, f, &v1.RoleBinding{Metadata: &v1.ObjectMeta{Name: args[0], Namespace: f.ns()}, RoleRef: ref, Subjects: subjects})
		},
	}
	if cluster {
		c.Use, c.Short = "clusterrolebinding NAME --clusterrole=NAME [--user=USER] [--group=GROUP]", "Give a cluster role to users and groups everywhere"
		c.Example = "  orchctl create clusterrolebinding teachers --clusterrole=cluster-admin --group=teachers"
	} else {
		c.Flags().StringVar(&b.role, "role", "", "the role of the namespace that is given")
	}
	c.Flags().StringVar(&b.clusterRole, "clusterrole", "", "the cluster role that is given")
	c.Flags().StringArrayVar(&b.users, "user", nil, "to a user; may be given several times")
	c.Flags().StringArrayVar(&b.groups, "group", nil, "to a group; may be given several times")
	c.Flags().StringArrayVar(&b.accounts, "serviceaccount", nil, "to a service account, as NAMESPACE:NAME")
	b.add(c, false)
	return c
}

func (b *bindingFlags) subjects() (out []*v1.Subject, err error) {
	for _, u := range b.users {
		out = append(out, &v1.Subject{Kind: api.SubjectUser, ApiGroup: api.GroupRBAC, Name: u})
	}
	for _, g := range b.groups {
		out = append(out, &v1.Subject{Kind: api.SubjectGroup, ApiGroup: api.GroupRBAC, Name: g})
	}
	for _, a := range b.accounts {
		namespace, name, ok := strings.Cut(a, ":")
		if !ok || namespace == "" || name == "" {
			return nil, fmt.Errorf("serviceaccount must be <namespace>:<name>")
		}
		out = append(out, &v1.Subject{Kind: api.SubjectServiceAccount, Namespace: namespace, Name: name})
	}
	return out, nil
}

func newCreateRole(f *factory, cluster bool) *cobra.Command {
	var r ruleFlags
	c := &cobra.Command{
		Use: "role NAME --verb=VERB --resource=RESOURCE[.GROUP][/SUBRESOURCE] [--resource-name=NAME]", Short: "Create a role: what may be done in a namespace", Args: cobra.ExactArgs(1),
		Example: "  orchctl create role pod-reader --verb=get,list,watch --resource=pods,pods/log -n webflix",
		RunE: func(c *cobra.Command, args []string) error {
			if len(r.resources) == 0 && len(r.urls) == 0 {
				if cluster {
					return fmt.Errorf("one of resource or nonResourceURL must be specified")
				}
				return fmt.Errorf("at least one resource must be specified")
			}
			rules, err := r.rules(f)
			if err != nil {
				return err
			}
			if cluster {
				return r.create(c, f, &v1.ClusterRole{Metadata: &v1.ObjectMeta{Name: args[0]}, Rules: rules})
			}
			return r.create(c, f, &v1.Role{Metadata: &v1.ObjectMeta{Name: args[0], Namespace: f.ns()}, Rules: rules})
		},
	}
	if cluster {
		c.Use, c.Short = "clusterrole NAME --verb=VERB --resource=RESOURCE[.GROUP][/SUBRESOURCE] [--resource-name=NAME] [--non-resource-url=URL]", "Create a cluster role: what may be done everywhere"
		c.Example = "  orchctl create clusterrole node-reader --verb=get,list,watch --resource=nodes"
		c.Flags().StringSliceVar(&r.urls, "non-resource-url", nil, "a path that the rule is for")
	}
	c.Flags().StringSliceVar(&r.verbs, "verb", nil, "what may be done; may be given several times")
	c.Flags().StringSliceVar(&r.resources, "resource", nil, "to which kind of object; may be given several times")
	c.Flags().StringArrayVar(&r.names, "resource-name", nil, "to an object of this name only; may be given several times")
	r.add(c, false)
	return c
}
